//! Breaks every kernel in one place at a time and tells which of the mutants the emulator catches.
//!
//! ```text
//! cargo run --release --example mutation [names of kernels, or parts that several have]
//! ```
//!
//! What survives must be explained in tests/mutation/explained.toml; otherwise the exit status is 1.

#[path = "../tests/mutation/cases.rs"]
mod cases;
#[path = "../tests/mutation/explained.rs"]
mod explained;

use std::error::Error;
use std::process::ExitCode;

use cusim::mutation::{Subject, judge_all};
use ferroflash::Kernels;
use indicatif::{ProgressBar, ProgressStyle};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut explanations = explained::read()?;
    let is_wanted = |kernel: &str| {
        wanted.is_empty()
            || wanted.iter().any(|part| {
                let is_name = Kernels::names().any(|name| name == part);
                kernel == part || (!is_name && kernel.contains(part))
            })
    };
    let recordings = cases::record(is_wanted)?;
    let threads = std::thread::available_parallelism()?.get();
    let (mut caught, mut total, mut explained, mut unexplained) = (0, 0, 0, 0);
    for subject in Subject::all(recordings, threads)? {
        let mutants = subject.mutants();
        let style = ProgressStyle::with_template("{msg:30} {bar:40} {pos}/{len} {eta}")?;
        let bar = ProgressBar::new(mutants.len() as u64).with_style(style);
        bar.set_message(subject.kernel().to_owned());
        let judged = judge_all(&subject, &mutants, threads, |_, _| bar.inc(1));
        bar.finish_and_clear();
        let before = caught;
        for (mutant, judgement) in mutants.iter().zip(&judged) {
            total += 1;
            if judgement.verdict.is_caught() {
                caught += 1;
            } else if explanations.explain(mutant).is_some() {
                explained += 1;
            } else {
                unexplained += 1;
                let site = explanations.site(mutant);
                println!("  {:?}: {mutant}\n    {site}", judgement.verdict);
            }
        }
        println!(
            "{}: {} of {}",
            subject.kernel(),
            caught - before,
            mutants.len()
        );
    }
    for stale in explanations.stale() {
        if Kernels::names().all(|kernel| is_wanted(kernel) || !stale.concerns(kernel)) {
            unexplained += 1;
            println!("  nothing needs this explanation any more: {stale:?}");
        }
    }
    println!(
        "mutants: caught {caught} of {total}, explained {explained}, unexplained {unexplained}"
    );
    Ok(ExitCode::from(u8::from(unexplained > 0)))
}
