//! Module images: what `cuModuleLoadData` is given, to PTX text.
//!
//! An image is PTX text, a fat binary that holds PTX, or something that only a GPU can run. The fat
//! binary container is not documented by NVIDIA; its layout here was read from files that nvcc
//! 12 and 13 wrote.

use std::borrow::Cow;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::io::Read;
use thiserror::Error;

/// First word of a fat binary.
const MAGIC: u32 = 0xBA55_ED50;
const HEADER_BYTES: usize = 16;
/// Fields up to and including the decompressed size.
const ENTRY_BYTES: usize = 64;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// More text than any module has; a guard against absurd sizes in a damaged image.
const MAX_TEXT: u64 = 1 << 30;

/// Why no PTX could be had from an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImageError {
    /// The image holds machine code only.
    #[error("the image holds no PTX, only machine code for {0}")]
    NoPtx(String),
    /// The only PTX is for newer devices than this one.
    #[error("the image's PTX is for sm_{found}, the device is sm_{device}")]
    TooNew {
        /// Lowest architecture of the image.
        found: u32,
        /// The device.
        device: u32,
    },
    /// The image ends before its own sizes say.
    #[error("the image is truncated at byte {0}")]
    Truncated(usize),
    /// The image is not what it claims to be.
    #[error("the image is malformed: {0}")]
    Malformed(&'static str),
    /// The compressed text could not be decompressed.
    #[error("the image's PTX could not be decompressed: {0}")]
    Compression(String),
}

/// How many bytes an image occupies, from its first 16; `None` for text, which ends at a NUL.
///
/// # Errors
/// [`ImageError::Malformed`] when a fat binary's size makes no sense.
pub fn image_len(start: &[u8; HEADER_BYTES]) -> Result<Option<usize>, ImageError> {
    if u32_at(start, 0)? != MAGIC {
        return Ok(None);
    }
    let header = u64::from(u16_at(start, 6)?);
    let total = header
        .checked_add(u64_at(start, 8)?)
        .filter(|&total| total <= MAX_TEXT);
    match total.map(usize::try_from) {
        Some(Ok(total)) => Ok(Some(total)),
        _ => Err(ImageError::Malformed("its size makes no sense")),
    }
}

/// The PTX text of an image, for a device of compute capability `arch` (80 for sm_80): of several,
/// that of the highest architecture the device can run.
///
/// # Errors
/// [`ImageError`] when there is none.
pub fn ptx_from_image(image: &[u8], arch: u32) -> Result<Cow<'_, str>, ImageError> {
    if image.starts_with(b"\x7fELF") {
        return Err(ImageError::NoPtx(
            "one architecture (an ELF image)".to_owned(),
        ));
    }
    if image.len() < 4 || u32_at(image, 0)? != MAGIC {
        return text(Cow::Borrowed(image));
    }
    let start = image
        .first_chunk()
        .ok_or(ImageError::Truncated(image.len()))?;
    let total = image_len(start)?.ok_or(ImageError::Malformed("no header"))?;
    let image = image
        .get(..total)
        .ok_or(ImageError::Truncated(image.len()))?;

    let mut machine_code = Vec::new();
    let mut best: Option<Entry<'_>> = None;
    let mut lowest: Option<u32> = None;
    let mut at = usize::from(u16_at(image, 6)?).max(HEADER_BYTES);
    while at < image.len() {
        let entry = Entry::read(image, at)?;
        at = entry.end;
        if entry.kind != KIND_PTX {
            machine_code.push(format!("sm_{}", entry.arch));
        } else if entry.arch > arch {
            lowest = Some(lowest.map_or(entry.arch, |lowest| lowest.min(entry.arch)));
        } else if best.as_ref().is_none_or(|best| best.arch <= entry.arch) {
            best = Some(entry);
        }
    }
    match (best, lowest) {
        (Some(entry), _) => text(entry.decompressed()?),
        (None, Some(found)) => Err(ImageError::TooNew {
            found,
            device: arch,
        }),
        (None, None) => Err(ImageError::NoPtx(machine_code.join(", "))),
    }
}

/// One entry of a fat binary.
struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    payload: &'a [u8],
    /// Bytes of the payload that are not padding, when it is compressed.
    compressed: usize,
    decompressed: u64,
    end: usize,
}

impl<'a> Entry<'a> {
    fn read(image: &'a [u8], at: usize) -> Result<Self, ImageError> {
        let header = image.get(at..).unwrap_or_default();
        if header.len() < ENTRY_BYTES {
            return Err(ImageError::Truncated(image.len()));
        }
        let header_bytes = u32_at(header, 4)? as usize;
        if header_bytes < ENTRY_BYTES {
            return Err(ImageError::Malformed("an entry's header is too short"));
        }
        let payload_bytes = usize::try_from(u64_at(header, 8)?)
            .map_err(|_| ImageError::Malformed("an entry's size makes no sense"))?;
        let end = header_bytes
            .checked_add(payload_bytes)
            .ok_or(ImageError::Malformed("an entry's size makes no sense"))?;
        let payload = header
            .get(header_bytes..end)
            .ok_or(ImageError::Truncated(image.len()))?;
        Ok(Self {
            kind: u16_at(header, 0)?,
            arch: u32_at(header, 28)?,
            flags: u64_at(header, 40)?,
            payload,
            compressed: u32_at(header, 16)? as usize,
            decompressed: u64_at(header, 56)?,
            end: at + end,
        })
    }

    fn decompressed(&self) -> Result<Cow<'a, [u8]>, ImageError> {
        if self.flags & (FLAG_LZ4 | FLAG_ZSTD) == 0 {
            return Ok(Cow::Borrowed(self.payload));
        }
        let payload = self
            .payload
            .get(..self.compressed)
            .ok_or(ImageError::Malformed(
                "the compressed text is longer than its entry",
            ))?;
        if self.decompressed > MAX_TEXT {
            return Err(ImageError::Malformed("the text's size makes no sense"));
        }
        let size = self.decompressed as usize;
        let text = if self.flags & FLAG_LZ4 != 0 {
            lz4_flex::block::decompress(payload, size).map_err(compression)?
        } else {
            let mut text = Vec::new();
            let decoder = StreamingDecoder::new(payload).map_err(compression)?;
            decoder
                .take(size as u64)
                .read_to_end(&mut text)
                .map_err(compression)?;
            text
        };
        if text.len() == size {
            Ok(Cow::Owned(text))
        } else {
            Err(ImageError::Malformed(
                "the text is shorter than its entry says",
            ))
        }
    }
}

fn compression(error: impl std::fmt::Display) -> ImageError {
    ImageError::Compression(error.to_string())
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

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ImageError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or(ImageError::Truncated(bytes.len()))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ImageError> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ImageError> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ImageError> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: &[u8] = include_bytes!("../../tests/fixtures/add_one_plain.fatbin");
    const LZ4: &[u8] = include_bytes!("../../tests/fixtures/add_one_lz4.fatbin");
    const ZSTD: &[u8] = include_bytes!("../../tests/fixtures/add_one_zstd.fatbin");
    const CUBIN: &[u8] = include_bytes!("../../tests/fixtures/add_one_cubin_only.fatbin");

    #[test]
    fn every_compression_gives_the_same_text() {
        let plain = ptx_from_image(PLAIN, 80).expect("uncompressed");
        assert!(plain.contains(".visible .entry addone"), "{plain}");
        assert_eq!(ptx_from_image(LZ4, 80).expect("LZ4"), plain);
        assert_eq!(ptx_from_image(ZSTD, 80).expect("zstd"), plain);
        let start = PLAIN.first_chunk().expect("a header");
        assert_eq!(image_len(start), Ok(Some(PLAIN.len())));
    }

    #[test]
    fn machine_code_alone_is_told_apart() {
        assert_eq!(
            ptx_from_image(CUBIN, 80),
            Err(ImageError::NoPtx("sm_80".to_owned()))
        );
        let elf = ptx_from_image(b"\x7fELF\x02\x01\x01\x33", 80);
        assert!(matches!(elf, Err(ImageError::NoPtx(_))), "{elf:?}");
    }

    #[test]
    fn ptx_for_newer_devices_is_refused() {
        assert_eq!(
            ptx_from_image(PLAIN, 75),
            Err(ImageError::TooNew {
                found: 80,
                device: 75
            })
        );
    }

    #[test]
    fn text_is_taken_up_to_its_end() {
        assert_eq!(
            ptx_from_image(b".version 9.0\0rest", 80).as_deref(),
            Ok(".version 9.0")
        );
        assert_eq!(image_len(b".version 9.0\n   "), Ok(None));
    }

    #[test]
    fn every_truncation_is_an_error() {
        for image in [PLAIN, LZ4, ZSTD] {
            for length in 4..image.len() {
                assert!(
                    ptx_from_image(&image[..length], 80).is_err(),
                    "{length} bytes"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn damaged_images_do_not_panic(
            which in 0..3usize, at in 0..3736usize, value: u8, more in prop::collection::vec((0..400usize, any::<u8>()), 0..8)
        ) {
            let mut image = [PLAIN, LZ4, ZSTD][which].to_vec();
            let length = image.len();
            image[at % length] = value;
            for (at, value) in more {
                image[at] = value;
            }
            let _ = ptx_from_image(&image, 80);
        }
    }
}
