#![no_main]

#[path = "../../bin/tests/promises/configuration.rs"]
mod promise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| promise::configuration(data));
