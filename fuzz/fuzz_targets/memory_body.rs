#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = memoryos::fuzzing::run("memory_body", bytes) {
        panic!("{broken}");
    }
});
