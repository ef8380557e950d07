#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cutover_fuzz::http2::header_blocks(data));
