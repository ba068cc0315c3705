//! The checked-in list of mutants that do no harm.

use std::error::Error;
use std::path::Path;

use cusim::mutation::{Explanation, Explanations};
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
