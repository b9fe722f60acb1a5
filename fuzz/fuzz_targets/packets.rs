#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| masque_testkit::fuzz::codec::packets(data));
