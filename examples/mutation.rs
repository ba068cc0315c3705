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
use explained::Tally;
use ferroflash::Kernels;
use indicatif::{ProgressBar, ProgressStyle};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (names, parts): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|wanted| Kernels::names().any(|name| name == wanted));
    let mut explanations = explained::read()?;
    let is_wanted = |kernel: &str| {
        (names.is_empty() && parts.is_empty())
            || names.iter().any(|name| name == kernel)
            || parts.iter().any(|part| kernel.contains(part.as_str()))
    };
    let recordings = cases::record(is_wanted)?;
    let threads = std::thread::available_parallelism()?.get();
    let mut all = Tally::default();
    for subject in Subject::all(recordings, threads)? {
        let mutants = subject.mutants();
        let style = ProgressStyle::with_template("{msg:30} {bar:40} {pos}/{len} {eta}")?;
        let bar = ProgressBar::new(mutants.len() as u64).with_style(style);
        bar.set_message(subject.kernel().to_owned());
        let judged = judge_all(&subject, &mutants, threads, |_, _| bar.inc(1));
        bar.finish_and_clear();
        let tally = Tally::of(&mut explanations, &mutants, &judged);
        println!(
            "{}: {} of {}",
            subject.kernel(),
            tally.caught,
            mutants.len()
        );
        all.caught += tally.caught;
        all.explained += tally.explained;
        all.unexplained += tally.unexplained;
    }
    for stale in explanations.stale() {
        if Kernels::names().all(|kernel| is_wanted(kernel) || !stale.concerns(kernel)) {
            all.unexplained += 1;
            println!("  nothing needs this explanation any more: {stale:?}");
        }
    }
    let Tally {
        caught,
        explained,
        unexplained,
    } = all;
    let total = caught + explained + unexplained;
    println!(
        "mutants: caught {caught} of {total}, explained {explained}, unexplained {unexplained}"
    );
    Ok(ExitCode::from(u8::from(unexplained > 0)))
}
