//! A sample of the mutants of examples/mutation.rs, another one every day. `FERROFLASH_MUTATION_SAMPLE` chooses
//! one by its number.

mod cases;
mod explained;

use std::time::{SystemTime, UNIX_EPOCH};

use cusim::mutation::{Subject, judge_all};

/// Mutants of each of three kernels.
const MUTANTS: usize = 40;

/// Today's number, or the one asked for.
fn number() -> usize {
    if let Ok(asked) = std::env::var("FERROFLASH_MUTATION_SAMPLE") {
        return asked.parse().expect("a number");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock").as_secs() as usize / (24 * 60 * 60)
}

#[test]
fn no_mutant_of_the_sample_survives_unexplained() {
    let number = number();
    println!("FERROFLASH_MUTATION_SAMPLE={number}");
    let mut explanations = explained::read().expect("the list");
    let mut recordings = cases::record().expect("the launches");
    // One kernel of each family.
    let mut kernels: Vec<String> = ["prefill", "norm", "rope"]
        .map(|family| {
            let mut names: Vec<&str> = ferroflash::Kernels::names()
                .filter(|name| name.contains(family))
                .collect();
            names.sort_unstable();
            names[number % names.len()].to_owned()
        })
        .into();
    recordings.retain(|recording| kernels.contains(&recording.kernel));
    for subject in Subject::all(recordings).expect("kernels that run") {
        kernels.retain(|kernel| kernel != subject.kernel());
        let all = subject.mutants();
        let step = all.len().div_ceil(MUTANTS);
        let sample: Vec<_> = all.into_iter().skip(number % step).step_by(step).collect();
        assert!(sample.len() >= MUTANTS / 2, "{} mutants", sample.len());
        for (mutant, judgement) in sample
            .iter()
            .zip(judge_all(&subject, &sample, 2, |_, _| ()))
        {
            assert!(
                judgement.verdict.is_caught() || explanations.explain(mutant).is_some(),
                "sample {number}: {:?}: {mutant}",
                judgement.verdict
            );
        }
    }
    assert!(kernels.is_empty(), "{kernels:?} were not launched");
}
