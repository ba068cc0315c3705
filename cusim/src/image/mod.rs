//! Module images: what `cuModuleLoadData` is given, to PTX text.
//!
//! An image is PTX text, a fat binary that holds PTX, or something that only a GPU can run.

mod container;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Reverse;

use thiserror::Error;

pub use container::image_len;
use container::{Entry, Kind};

/// Why no PTX could be had from an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// The image holds no PTX, but this.
    #[error("the image holds no PTX, only {0}")]
    NoPtx(String),
    /// The PTX is for newer devices than this one, or for another kind only.
    #[error("the image's PTX is for {targets}, the device is sm_{device}")]
    TooNew {
        /// Targets of the image's PTX.
        targets: String,
        /// The device.
        device: u32,
    },
    /// The image ends before its own sizes say.
    #[error("the image is truncated: it has {0} bytes")]
    Truncated(usize),
    /// The image is not what it claims to be.
    #[error("the image is malformed: {0}")]
    Malformed(&'static str),
    /// The compressed text could not be decompressed.
    #[error("the image's PTX could not be decompressed: {0}")]
    Compression(String),
}

/// The PTX text of an image, for a device of compute capability `arch` (80 for sm_80): of several,
/// that of the highest architecture the device can run, and for its own architecture that made
/// for it alone (`sm_90a`) before that made for later ones too.
///
/// Text is returned as it is, up to its NUL: what it is for, only the parser knows.
///
/// # Errors
/// [`ImageError`] when there is none.
pub fn ptx_from_image(image: &[u8], arch: u32) -> Result<Cow<'_, str>, ImageError> {
    if image.starts_with(b"\x7fELF") {
        return Err(ImageError::NoPtx("machine code (an ELF image)".to_owned()));
    }
    if !container::is_fat_binary(image) {
        return text(Cow::Borrowed(image));
    }
    let mut candidates = Vec::new();
    let mut others = Vec::new();
    for entry in container::entries(image)? {
        match entry.kind {
            Kind::Ptx => candidates.push(entry),
            Kind::Elf => others.push(format!("machine code for sm_{}", entry.arch)),
            Kind::Other => others.push(format!("intermediate code for sm_{}", entry.arch)),
        }
    }
    candidates.sort_by_key(|entry| Reverse(entry.arch));
    if let Some(text) = best(&candidates, arch)? {
        return Ok(text);
    }
    if candidates.is_empty() {
        others.dedup();
        let what = if others.is_empty() {
            "its header".to_owned()
        } else {
            others.join(", ")
        };
        return Err(ImageError::NoPtx(what));
    }
    let mut targets: Vec<String> = Vec::new();
    for entry in candidates {
        targets.push(target_of(&entry_text(&entry)?).to_owned());
    }
    targets.dedup();
    Err(ImageError::TooNew {
        targets: targets.join(", "),
        device: arch,
    })
}

/// The best of some entries, which are in falling order.
fn best<'a>(entries: &[Entry<'a>], device: u32) -> Result<Option<Cow<'a, str>>, ImageError> {
    let mut best: Option<(u32, Cow<'_, str>)> = None;
    for entry in entries.iter().filter(|entry| entry.arch <= device) {
        if best.as_ref().is_some_and(|(arch, _)| *arch > entry.arch) {
            break;
        }
        let text = entry_text(entry)?;
        let target = target_of(&text);
        let is_special = target.ends_with(|c: char| c.is_ascii_alphabetic());
        if runs_on(target, device) && (is_special || best.is_none()) {
            best = Some((entry.arch, text));
        }
    }
    Ok(best.map(|(_, text)| text))
}

/// Whether PTX for a target runs on a device: on that architecture and later ones; with `f`
/// behind it, on those of its family; with `a`, on that one only.
#[must_use]
pub fn runs_on(target: &str, device: u32) -> bool {
    let Some(number) = target.strip_prefix("sm_") else {
        return false;
    };
    let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let Ok(wanted) = digits.parse::<u32>() else {
        return false;
    };
    match &number[digits.len()..] {
        "" => wanted <= device,
        "f" => wanted <= device && wanted / 10 == device / 10,
        _ => wanted == device,
    }
}

/// The first word of the `.target` directive; empty if there is none.
fn target_of(text: &str) -> &str {
    let directive = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(".target"))
        .unwrap_or_default();
    let words = directive.split(|c: char| c == ',' || c.is_whitespace());
    words
        .into_iter()
        .find(|word| !word.is_empty())
        .unwrap_or_default()
}

fn entry_text<'a>(entry: &Entry<'a>) -> Result<Cow<'a, str>, ImageError> {
    text(entry.payload()?)
}

/// The bytes up to the first NUL as text.
fn text(bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, ImageError> {
    const NOT_TEXT: ImageError = ImageError::Malformed("neither PTX text nor a fat binary");
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(&bytes[..end])
            .map(Cow::Borrowed)
            .map_err(|_| NOT_TEXT),
        Cow::Owned(mut bytes) => {
            bytes.truncate(end);
            String::from_utf8(bytes)
                .map(Cow::Owned)
                .map_err(|_| NOT_TEXT)
        }
    }
}
