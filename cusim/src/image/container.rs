//! The fat binary container. NVIDIA does not document it; this layout was read from files that
//! nvcc 12 and 13 wrote.
//!
//! A header of 16 bytes (magic, version, header bytes, bytes that follow) is followed by entries.
//! Each has a header of 64 bytes or more and a payload, which may be compressed and padded:
//!
//! | bytes | field |
//! |-------|-------|
//! | 0..2 | kind: 1 PTX, 2 ELF, 8 code for link-time optimisation |
//! | 4..8 | bytes of this header, which options and a file name may follow |
//! | 8..16 | bytes of the payload with its padding |
//! | 16..20 | bytes of the compressed payload without padding |
//! | 28..32 | architecture, for instance 80 |
//! | 40..48 | flags |
//! | 56..64 | bytes of the payload once decompressed |

use std::borrow::Cow;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::io::Read;

use super::ImageError;

/// First word of a fat binary.
const MAGIC: u32 = 0xBA55_ED50;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 64;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
/// More than any module has; a guard against absurd sizes in a damaged image.
const MAX_BYTES: u64 = 1 << 30;
/// LZ4 makes at most 255 bytes from one.
const LZ4_RATIO: u64 = 255;

const ABSURD: ImageError = ImageError::Malformed("its size makes no sense");

/// How many bytes an image occupies, from its first 16; `None` for text, which ends at a NUL.
///
/// # Errors
/// [`ImageError::Malformed`] when a fat binary's size makes no sense.
pub fn image_len(start: &[u8; HEADER_BYTES]) -> Result<Option<usize>, ImageError> {
    if !is_fat_binary(start) {
        return Ok(None);
    }
    let total = u64_at(start, 8)?
        .checked_add(u16_at(start, 6)?.into())
        .filter(|&total| total <= MAX_BYTES)
        .ok_or(ABSURD)?;
    usize::try_from(total).map(Some).map_err(|_| ABSURD)
}

pub(super) fn is_fat_binary(image: &[u8]) -> bool {
    u32_at(image, 0) == Ok(MAGIC)
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ptx,
    Elf,
    Other,
}

/// One entry of a fat binary.
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) arch: u32,
    flags: u64,
    payload: &'a [u8],
    /// Bytes of the payload that are not padding, if it is compressed.
    compressed: usize,
    decompressed: u64,
}

/// All entries of a fat binary.
pub(super) fn entries(image: &[u8]) -> Result<Vec<Entry<'_>>, ImageError> {
    let start = image
        .first_chunk()
        .ok_or(ImageError::Truncated(image.len()))?;
    let total = image_len(start)?.ok_or(ImageError::Malformed("no fat binary"))?;
    let image = image
        .get(..total)
        .ok_or(ImageError::Truncated(image.len()))?;
    let mut at = usize::from(u16_at(image, 6)?);
    if at < HEADER_BYTES {
        return Err(ImageError::Malformed("its header is too short"));
    }
    let mut entries = Vec::new();
    while at < total {
        let (entry, bytes) = Entry::read(&image[at..])?;
        entries.push(entry);
        at += bytes;
    }
    Ok(entries)
}

impl<'a> Entry<'a> {
    /// The entry at the start of these bytes, and how many it takes.
    fn read(bytes: &'a [u8]) -> Result<(Self, usize), ImageError> {
        const OVERRUN: ImageError = ImageError::Malformed("an entry reaches beyond its end");
        if bytes.len() < ENTRY_BYTES {
            return Err(OVERRUN);
        }
        let header = u32_at(bytes, 4)? as usize;
        if header < ENTRY_BYTES {
            return Err(ImageError::Malformed("an entry's header is too short"));
        }
        let end = usize::try_from(u64_at(bytes, 8)?)
            .ok()
            .and_then(|payload| payload.checked_add(header))
            .ok_or(ABSURD)?;
        let entry = Self {
            kind: match u16_at(bytes, 0)? {
                1 => Kind::Ptx,
                2 => Kind::Elf,
                _ => Kind::Other,
            },
            arch: u32_at(bytes, 28)?,
            flags: u64_at(bytes, 40)?,
            payload: bytes.get(header..end).ok_or(OVERRUN)?,
            compressed: u32_at(bytes, 16)? as usize,
            decompressed: u64_at(bytes, 56)?,
        };
        Ok((entry, end))
    }

    /// The payload, decompressed.
    pub(super) fn payload(&self) -> Result<Cow<'a, [u8]>, ImageError> {
        if self.flags & (FLAG_LZ4 | FLAG_ZSTD) == 0 {
            return Ok(Cow::Borrowed(self.payload));
        }
        let payload = self
            .payload
            .get(..self.compressed)
            .ok_or(ImageError::Malformed(
                "the compressed text is longer than its entry",
            ))?;
        if self.decompressed > MAX_BYTES {
            return Err(ABSURD);
        }
        let size = self.decompressed as usize;
        let text = if self.flags & FLAG_LZ4 != 0 {
            if self.decompressed > payload.len() as u64 * LZ4_RATIO {
                return Err(ABSURD);
            }
            lz4_flex::block::decompress(payload, size).map_err(compression)?
        } else {
            let decoder = StreamingDecoder::new(payload).map_err(compression)?;
            let mut text = Vec::new();
            decoder
                .take(self.decompressed)
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
