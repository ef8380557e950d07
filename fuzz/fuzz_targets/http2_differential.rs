#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(cutover_fuzz::http2::agree_with_h2(data)));
