#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fed_rpc::fuzzing::invitations(input));
