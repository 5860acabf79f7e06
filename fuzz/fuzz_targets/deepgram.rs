#![no_main]

libfuzzer_sys::fuzz_target!(init: godctl_fuzz::start(), |bytes: &[u8]| godctl_fuzz::laws::deepgram::hold(bytes));
