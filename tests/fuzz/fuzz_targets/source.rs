#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sutler_tests::hostile::source::source(bytes);
});
