#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fed_service::fuzzing::control_messages(input));
