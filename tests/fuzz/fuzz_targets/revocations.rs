#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sutler_fuzz::parsers::revocations(bytes);
});
