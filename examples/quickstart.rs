//! Runs one transformer block's worth of ferroflash on the device at hand and says how far the
//! results are from the f64 reference.
fn main() {}
