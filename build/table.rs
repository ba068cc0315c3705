//! The table of compiled modules that the crate embeds.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// One compiled translation unit.
pub struct Image {
    /// Path below `kernels/` without extension, for instance `norm/rms_norm`.
    pub name: String,
    /// The fat binary, in OUT_DIR.
    pub path: PathBuf,
    /// Its entry points.
    pub symbols: Vec<String>,
}

/// Writes `kernel_images.rs`: an array of `Image { name, bytes, symbols }`.
pub fn write(out: &Path, images: &[Image]) -> Result<(), String> {
    let mut text = String::from("&[\n");
    for Image {
        name,
        path,
        symbols,
    } in images
    {
        writeln!(
            text,
            "    Image {{ name: {name:?}, bytes: include_bytes!({path:?}), symbols: &{symbols:?} }},"
        )
        .map_err(|e| e.to_string())?;
    }
    text.push(']');
    let table = out.join("kernel_images.rs");
    fs::write(&table, text).map_err(|e| format!("{}: {e}", table.display()))
}
