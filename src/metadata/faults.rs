//! What kernels tell of index arrays that they check themselves.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::error::Error;
use crate::launch::params::{FFLASH_FAULT_POSITION, FFLASH_FAULT_SLOT};

/// An index that a kernel refused to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IndexFault {
    /// The token whose index it is.
    pub token: usize,
    /// Which of its indices.
    pub index: FaultyIndex,
}

/// Kinds of indices that kernels check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultyIndex {
    /// One of [`Positions`](super::Positions).
    Position,
    /// One of [`Slots`](super::Slots).
    Slot,
}

/// A word in device memory in which kernels leave the first token with an index outside its range. It stays through any number of
/// launches until it is cleared.
#[derive(Debug)]
pub struct IndexFaults {
    device: CudaSlice<u64>,
}

/// What the word is while nothing has happened: kernels take the minimum.
const NONE: u64 = u64::MAX;

impl IndexFaults {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// [`Error::Driver`] when there is no memory.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        Ok(Self {
            device: stream.clone_htod(&[NONE])?,
        })
    }

    /// Waits for `stream`, and tells of the first token with a bad index in any launch since the last clearing.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver reports an error.
    pub fn first(&self, stream: &Arc<CudaStream>) -> Result<Option<IndexFault>, Error> {
        let word = stream.clone_dtoh(&self.device)?[0];
        Ok((word != NONE).then_some(IndexFault {
            token: (word >> 1) as usize,
            index: if (word & 1) as u32 == FFLASH_FAULT_SLOT {
                FaultyIndex::Slot
            } else {
                FaultyIndex::Position
            },
        }))
    }

    /// Forgets.
    ///
    /// # Errors
    /// [`Error::Driver`] when the driver reports an error.
    pub fn clear(&mut self, stream: &Arc<CudaStream>) -> Result<(), Error> {
        Ok(stream.memcpy_htod(&[NONE], &mut self.device)?)
    }

    pub(crate) fn device_mut(&mut self) -> &mut CudaSlice<u64> {
        &mut self.device
    }
}

const _: () = assert!(FFLASH_FAULT_POSITION == 0 && FFLASH_FAULT_SLOT == 1);
