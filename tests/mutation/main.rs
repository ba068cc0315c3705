//! A sample of the mutants of examples/mutation.rs, another one whenever a kernel changes.
//! `FERROFLASH_MUTATION_SAMPLE` chooses one by its number.

mod cases;
mod explained;

use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::{fs, io};

use cusim::mutation::{Subject, judge_all};
use explained::Tally;

/// Mutants of each of three kernels.
const MUTANTS: usize = 40;
const THREADS: usize = 2;

/// The number asked for, or one that the sources of the kernels give: the same tree has the same sample.
fn number() -> usize {
    if let Ok(asked) = std::env::var("FERROFLASH_MUTATION_SAMPLE") {
        return asked.parse().expect("a number");
    }
    let mut hasher = DefaultHasher::new();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    hash_files(&kernels, &mut hasher).expect("the kernels' sources");
    (hasher.finish() % 1000) as usize
}

fn hash_files(folder: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut paths: Vec<_> = entries?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash_files(&path, hasher)?;
        } else {
            hasher.write(&fs::read(path)?);
        }
    }
    Ok(())
}

const FAMILIES: [&str; 3] = ["prefill", "norm", "rope"];

#[test]
fn no_mutant_of_the_sample_survives_unexplained() {
    let number = number();
    println!("FERROFLASH_MUTATION_SAMPLE={number}");
    let mut explanations = explained::read().expect("the list");
    // One kernel of each family.
    let mut kernels = FAMILIES
        .map(|family| {
            let mut names: Vec<&str> = ferroflash::Kernels::names()
                .filter(|name| name.contains(family))
                .collect();
            names.sort_unstable();
            names[number % names.len()]
        })
        .to_vec();
    let wanted = |kernel: &str| kernels.contains(&kernel);
    let recordings = cases::record(wanted).expect("the launches");
    let mut unexplained = 0;
    for subject in Subject::all(recordings, THREADS).expect("kernels that run") {
        let found = kernels.iter().position(|name| *name == subject.kernel());
        let kernel = kernels.swap_remove(found.expect("a kernel once"));
        let all = subject.mutants();
        let step = all.len().div_ceil(MUTANTS);
        let sample: Vec<_> = all.into_iter().skip(number % step).step_by(step).collect();
        assert!(sample.len() >= MUTANTS / 2, "{} mutants", sample.len());
        let judged = judge_all(&subject, &sample, THREADS, |_, _| ());
        let tally = Tally::of(&mut explanations, &sample, &judged);
        let survivors = tally.unexplained;
        println!(
            "{kernel}: {survivors} of {} mutants survive unexplained",
            sample.len()
        );
        unexplained += survivors;
    }
    assert_eq!(unexplained, 0, "sample {number}");
    assert!(kernels.is_empty(), "{kernels:?} were not launched");
}
