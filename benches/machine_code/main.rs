//! What is known of the kernels without a GPU, with the bars they must not fall below.
//!
//! For every case: registers and spills of the machine code for each architecture in this build, the mix of
//! instructions and the model of one SM for sm_80 (`sasscheck.py`, beside this file), and what cusim counts when the
//! kernel runs: sectors of global memory against those that must move, passes over shared memory against the ideal,
//! multiplications against those that are needed.
//!
//! `cargo bench --bench machine_code [-- FILTER...]` prints the cases whose name contains a filter and exits with status
//! 1 when a bar is missed. Nothing here is a time.

#[path = "../cases/mod.rs"]
mod cases;
mod report;
mod sass;

use std::error::Error;
use std::process::ExitCode;

use cases::{Device, Scale};
use sass::Toolkit;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // cargo itself passes --bench.
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    println!("{}", cusim::Device::select(cusim::Choice::Cusim)?);
    let device = Device::new(Scale::Counted)?;
    let mut cases = cases::all(&device, &filters)?;

    let toolkit = Toolkit::install()?;
    let mut missed = Vec::new();
    for case in &mut cases {
        let run = case.run(&device)?;
        let kernels = toolkit.examine(&run)?;
        missed.extend(case.report(&run, &kernels));
    }
    println!("\n{} cases, {} bars missed", cases.len(), missed.len());
    for bar in &missed {
        println!("  {bar}");
    }
    Ok(ExitCode::from(u8::from(!missed.is_empty())))
}
