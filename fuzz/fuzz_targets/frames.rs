#![no_main]

use std::time::Instant;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fed_mesh::fuzzing::frames(input, Instant::now()));
