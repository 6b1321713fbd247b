//! Runs `schemas::fuzzing::event_nats` on whatever the fuzzer comes up with.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| schemas::fuzzing::event_nats(input));
