#![no_main]

// The first byte says which side reads the rest.
libfuzzer_sys::fuzz_target!(|data: &[u8]| match data {
    [side, wire @ ..] if side & 1 == 0 => cutover_fuzz::oracle::agree_on_request(wire),
    [_, wire @ ..] => cutover_fuzz::oracle::agree_on_response(wire),
    [] => {}
});
