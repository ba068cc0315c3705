//! Index arrays. They are pointers in disguise, so they are validated on the host before a kernel
//! may follow them.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::error::Error;

/// The position of every token, for RoPE: non-negative integers in device memory.
#[derive(Debug)]
pub struct Positions {
    device: CudaSlice<i32>,
    /// The largest position and where it first stands; `None` when there are no tokens.
    largest: Option<(usize, i32)>,
    len: usize,
}

impl Positions {
    /// Validates `positions` and uploads them on `stream`.
    ///
    /// # Errors
    /// [`Error::PositionOutOfRange`] for a negative position, [`Error::Driver`] when the upload fails.
    pub fn new(stream: &Arc<CudaStream>, positions: &[i32]) -> Result<Self, Error> {
        if let Some((index, &position)) = positions.iter().enumerate().find(|(_, p)| **p < 0) {
            return Err(Error::PositionOutOfRange {
                index,
                position: position.into(),
                limit: i32::MAX as usize + 1,
            });
        }
        let largest = positions
            .iter()
            .copied()
            .enumerate()
            .max_by_key(|&(index, position)| (position, std::cmp::Reverse(index)));
        // An allocation of no bytes is an error, a batch of no tokens is not.
        let device = if positions.is_empty() {
            stream.alloc_zeros(1)?
        } else {
            stream.clone_htod(positions)?
        };
        Ok(Self {
            device,
            largest,
            len: positions.len(),
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn device(&self) -> &CudaSlice<i32> {
        &self.device
    }

    /// Checks that every position is below `limit`.
    pub(crate) fn check_below(&self, limit: usize) -> Result<(), Error> {
        match self.largest {
            Some((index, position)) if position as usize >= limit => {
                Err(Error::PositionOutOfRange {
                    index,
                    position: position.into(),
                    limit,
                })
            }
            _ => Ok(()),
        }
    }
}
