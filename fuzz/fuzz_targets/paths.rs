#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = memoryos::fuzzing::run("paths", bytes) {
        panic!("{broken}");
    }
});
