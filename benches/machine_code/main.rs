//! What is known of the kernels without a GPU, with the bars they must not fall below.
//!
//! For every case: registers and spills of the machine code for each architecture in this build, the mix of
//! instructions and the model of one SM for sm_80 (`sasscheck.py`, beside this file), and what cusim counts when the
//! kernel runs: sectors of global memory against those that must move, passes over shared memory against the ideal,
//! multiplications against those that are needed.
//!
//! `cargo bench --bench machine_code [-- FILTER...]` prints the cases whose name contains a filter and exits with status
//! 1 when a bar is missed. Nothing here is a time.

mod attention;
mod case;
mod norm;
mod rope;
mod sass;

use std::error::Error;
use std::process::ExitCode;

use case::{Case, Device};
use sass::Toolkit;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // cargo itself passes --bench.
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let device = Device::new()?;
    let mut cases = Vec::new();
    attention::cases(&device, &mut cases)?;
    norm::cases(&device, &mut cases)?;
    rope::cases(&device, &mut cases)?;
    let is_wanted = |case: &Case| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| case.name.contains(filter.as_str()))
    };
    cases.retain(is_wanted);

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
