#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fed_tun::fuzzing::pieces_of_the_kernel(input));
