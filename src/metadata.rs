//! Index arrays. They are pointers in disguise, so they are validated on the host before a kernel
//! may follow them.

mod faults;
mod pages;
mod positions;
mod slots;

pub(crate) use pages::Contents;
pub use pages::PageTable;

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};

use crate::error::Error;

pub use faults::{FaultyIndex, IndexFault, IndexFaults};
pub use positions::{Number, Position, Positions};
pub(crate) use positions::{POSITION_LIMIT, Source};
pub use slots::Slots;

/// Where each of several packed sequences starts and ends: sequence `s` is the tokens
/// `cu_seqlens[s]..cu_seqlens[s + 1]`, without padding between sequences. On the host and, as `i32`, in device memory.
#[derive(Debug)]
pub struct CuSeqlens {
    device: CudaSlice<i32>,
    cumulative: Vec<usize>,
}

impl CuSeqlens {
    /// Validates cumulative lengths `[sequences + 1]`, which start at 0, and uploads them on `stream`. Sequences may
    /// be empty.
    ///
    /// # Errors
    /// [`Error::InvalidCuSeqlens`] for an empty list, one that does not start at 0, decreases, or passes `i32::MAX`;
    /// [`Error::Driver`] when the upload fails.
    pub fn new(stream: &Arc<CudaStream>, cumulative: &[usize]) -> Result<Self, Error> {
        let mut before = 0;
        let mut device = Vec::with_capacity(cumulative.len());
        for (index, &value) in cumulative.iter().enumerate() {
            let requirement = match i32::try_from(value) {
                _ if index == 0 && value != 0 => "must be 0",
                _ if value < before => "must not be below the one before",
                Err(_) => "must not pass i32::MAX",
                Ok(end) => {
                    device.push(end);
                    before = value;
                    continue;
                }
            };
            return Err(Error::InvalidCuSeqlens {
                index,
                value,
                requirement,
            });
        }
        if cumulative.is_empty() {
            return Err(Error::InvalidCuSeqlens {
                index: 0,
                value: 0,
                requirement: "must be there: one more than there are sequences",
            });
        }
        Ok(Self {
            device: stream.clone_htod(&device)?,
            cumulative: cumulative.to_vec(),
        })
    }

    /// From the length of each sequence.
    ///
    /// # Errors
    /// As [`CuSeqlens::new`].
    pub fn from_lengths(stream: &Arc<CudaStream>, lengths: &[usize]) -> Result<Self, Error> {
        let mut cumulative = vec![0usize];
        let mut end = 0usize;
        for &length in lengths {
            end = end.saturating_add(length);
            cumulative.push(end);
        }
        Self::new(stream, &cumulative)
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cumulative.len() - 1
    }

    /// Number of tokens of all sequences.
    pub fn total(&self) -> usize {
        self.cumulative[self.sequences()]
    }

    /// The tokens of every sequence.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> {
        self.cumulative.windows(2).map(|pair| pair[0]..pair[1])
    }

    /// The length of the longest sequence; 0 when there is none.
    pub fn max_seqlen(&self) -> usize {
        self.ranges().map(|range| range.len()).max().unwrap_or(0)
    }

    pub(crate) fn device(&self) -> &CudaSlice<i32> {
        &self.device
    }
}

/// The order of axes in the pages of a key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PageLayout {
    /// `[num_pages, page_size, num_kv_heads, head_dim]`.
    #[default]
    Nhd,
    /// `[num_pages, num_kv_heads, page_size, head_dim]`.
    Hnd,
}

impl PageLayout {
    /// The axes of a cache in the order page, token of the page, head.
    pub const fn axes(self) -> [usize; 3] {
        match self {
            PageLayout::Nhd => [0, 1, 2],
            PageLayout::Hnd => [0, 2, 1],
        }
    }
}

/// Who answers for the values of an index array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The host has seen them.
    Validated,
    /// The caller has promised.
    Promised,
    /// The kernel looks.
    Checked,
}

/// Copies to the device. Allocating no bytes is an error, having no tokens is not.
fn upload<T: DeviceRepr + ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    values: &[T],
) -> Result<CudaSlice<T>, Error> {
    Ok(if values.is_empty() {
        stream.alloc_zeros(1)?
    } else {
        stream.clone_htod(values)?
    })
}

/// Checks that an index array on the device has at least `count` elements.
fn check_holds<T>(operand: &'static str, device: &CudaSlice<T>, count: usize) -> Result<(), Error> {
    if device.len() >= count {
        return Ok(());
    }
    Err(Error::ShapeMismatch {
        operand,
        axis: "elements",
        expected: count,
        found: device.len(),
    })
}

#[cfg(test)]
mod tests {
    use cudarc::driver::CudaContext;

    use super::*;

    fn stream() -> Arc<CudaStream> {
        cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
        CudaContext::new(0).expect("a context").default_stream()
    }

    #[test]
    fn packed_sequences_lie_one_after_the_other() {
        let packed = CuSeqlens::from_lengths(&stream(), &[3, 0, 2]).expect("valid lengths");
        assert_eq!((packed.sequences(), packed.total()), (3, 5));
        assert_eq!(packed.ranges().collect::<Vec<_>>(), [0..3, 3..3, 3..5]);
        assert_eq!(packed.max_seqlen(), 3);
        let none = CuSeqlens::new(&stream(), &[0]).expect("no sequences");
        assert_eq!(
            (none.sequences(), none.total(), none.max_seqlen()),
            (0, 0, 0)
        );
    }

    #[test]
    fn cumulative_lengths_must_rise_from_zero() {
        let refused = |cumulative: &[usize]| match CuSeqlens::new(&stream(), cumulative) {
            Err(Error::InvalidCuSeqlens { index, .. }) => Some(index),
            _ => None,
        };
        assert_eq!(refused(&[]), Some(0));
        assert_eq!(refused(&[1, 2]), Some(0));
        assert_eq!(refused(&[0, 4, 3]), Some(2));
        assert_eq!(refused(&[0, 1 << 31]), Some(1));
        assert_eq!(refused(&[0, usize::MAX]), Some(1));
    }
}
