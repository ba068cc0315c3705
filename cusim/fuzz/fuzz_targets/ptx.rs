//! PTX text, whatever it is, is a program or an error with a line.
#![no_main]

use cusim::program::Program;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(module) = cusim::ptx::parse(text) {
        let _ = Program::load(&module);
    }
});
