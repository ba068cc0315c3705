//! Where tokens go in a paged cache.

use std::collections::HashSet;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use super::Trust;
use crate::error::Error;

/// The slot of every token in a paged cache: `page * page_size + token of the page`, or none for tokens that are not written
/// (padding). On the device, `i64`, -1 for none.
#[derive(Debug)]
pub struct Slots {
    device: CudaSlice<i64>,
    len: usize,
    trust: Trust,
    /// The largest slot and its token; `None` when there is none, or nobody has looked.
    largest: Option<(usize, usize)>,
}

impl Slots {
    /// Validates `slots` `[tokens]` and uploads them on `stream`.
    ///
    /// # Errors
    /// [`Error::InvalidSlot`] for a slot given twice or past `i64::MAX`, [`Error::Driver`] when the upload fails.
    pub fn new(stream: &Arc<CudaStream>, slots: &[Option<usize>]) -> Result<Self, Error> {
        let mut taken = HashSet::with_capacity(slots.len());
        let mut largest: Option<(usize, usize)> = None;
        let mut device = Vec::with_capacity(slots.len());
        for (index, &slot) in slots.iter().enumerate() {
            let Some(slot) = slot else {
                device.push(-1);
                continue;
            };
            let refused = |requirement| Error::InvalidSlot {
                index,
                slot,
                requirement,
            };
            device.push(i64::try_from(slot).map_err(|_| refused("must not pass i64::MAX"))?);
            if !taken.insert(slot) {
                return Err(refused("must not be another token's too"));
            }
            if largest.is_none_or(|(_, before)| before < slot) {
                largest = Some((index, slot));
            }
        }
        Ok(Self {
            device: super::upload(stream, &device)?,
            len: slots.len(),
            trust: Trust::Validated,
            largest,
        })
    }

    /// Slots of `tokens` tokens that are on the device already, and that the kernel checks: a token with a slot below -1 or
    /// past the cache's end is left out, and told of through [`IndexFaults`](super::IndexFaults), which the
    /// operation then needs. Of two tokens with one slot, either may be what ends up there, or a mixture.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] when `device` is too short.
    pub fn checked_on_device(device: CudaSlice<i64>, tokens: usize) -> Result<Self, Error> {
        Self::on_device(device, tokens, Trust::Checked)
    }

    /// Slots of `tokens` tokens that are on the device already, and that nobody checks.
    ///
    /// # Safety
    /// When a kernel runs that is given them, every slot must be -1, or from 0 to below `num_pages * page_size` of the cache of
    /// that call: the kernel writes there.
    ///
    /// # Errors
    /// As [`Slots::checked_on_device`].
    #[allow(unsafe_code)]
    pub unsafe fn from_device_unchecked(
        device: CudaSlice<i64>,
        tokens: usize,
    ) -> Result<Self, Error> {
        Self::on_device(device, tokens, Trust::Promised)
    }

    fn on_device(device: CudaSlice<i64>, len: usize, trust: Trust) -> Result<Self, Error> {
        super::check_holds("slots", &device, len)?;
        Ok(Self {
            device,
            len,
            trust,
            largest: None,
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

    pub(crate) fn device(&self) -> &CudaSlice<i64> {
        &self.device
    }

    pub(crate) fn is_checked(&self) -> bool {
        self.trust == Trust::Checked
    }

    /// Checks that every slot that the host has seen is below `limit`.
    pub(crate) fn check_below(&self, limit: usize) -> Result<(), Error> {
        match self.largest {
            Some((index, slot)) if slot >= limit => Err(Error::InvalidSlot {
                index,
                slot,
                requirement: "must lie in the pages of the cache",
            }),
            _ => Ok(()),
        }
    }
}
