//! Gemma 3 on ferroflash.
fn main() {}
