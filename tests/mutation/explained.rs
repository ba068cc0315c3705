//! The checked-in list of mutants that do no harm.

use std::error::Error;
use std::path::Path;

use cusim::mutation::{Explanation, Explanations, Judgement, Mutant};
use serde::Deserialize;

/// explained.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    explanation: Vec<Explanation>,
}

/// Reads the list.
pub fn read() -> Result<Explanations, Box<dyn Error>> {
    let file: File = toml::from_str(include_str!("explained.toml"))?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(Explanations::new(file.explanation, root))
}

/// How many mutants are what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub caught: usize,
    pub explained: usize,
    pub unexplained: usize,
}

impl Tally {
    /// Counts mutants, and prints those that nobody caught or explained.
    pub fn of(explanations: &mut Explanations, mutants: &[Mutant], judged: &[Judgement]) -> Self {
        let mut tally = Self::default();
        for (mutant, judgement) in mutants.iter().zip(judged) {
            if judgement.verdict.is_caught() {
                tally.caught += 1;
            } else if explanations.explain(mutant).is_some() {
                tally.explained += 1;
            } else {
                tally.unexplained += 1;
                let site = explanations.site(mutant);
                println!("  {:?}: {mutant}\n    {site}", judgement.verdict);
            }
        }
        tally
    }
}
