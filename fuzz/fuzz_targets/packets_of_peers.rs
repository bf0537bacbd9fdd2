#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fed_tun::fuzzing::packets_of_peers(input));
