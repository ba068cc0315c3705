//! Moving and filling bytes in the memories of the host and the device.

use super::abi::{host_copy, host_in, host_out};
use super::planes::Copy3;
use super::state::State;
use super::status::Status;
use crate::memory::GLOBAL_BASE;

/// Bytes somewhere.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Host(u64),
    Device(u64),
    /// An address of the unified address space, which tells the memories apart.
    Either(u64),
}

impl Place {
    pub(super) fn offset(self, by: u64) -> Option<Self> {
        Some(match self {
            Self::Host(address) => Self::Host(address.checked_add(by)?),
            Self::Device(address) => Self::Device(address.checked_add(by)?),
            Self::Either(address) => Self::Either(address.checked_add(by)?),
        })
    }

    pub(super) fn address(self) -> u64 {
        let (Self::Host(address) | Self::Device(address) | Self::Either(address)) = self;
        address
    }
}

/// What of each row to fill: so many elements, rows `pitch` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) width: u64,
    pub(super) height: u64,
    pub(super) pitch: u64,
}

/// The widest element that a fill repeats.
const WIDEST: usize = 4;

/// A fill of device memory.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    pub(super) address: u64,
    pattern: [u8; WIDEST],
    size: usize,
    rows: Rows,
}

impl Fill {
    pub(super) fn new(address: u64, pattern: &[u8], rows: Rows) -> Result<Self, Status> {
        let size = pattern.len();
        let aligned = |bytes: u64| bytes.is_multiple_of(size as u64);
        if !aligned(address) || rows.height > 1 && !aligned(rows.pitch) {
            return Err(Status::INVALID_VALUE);
        }
        let mut padded = [0; WIDEST];
        padded[..size].copy_from_slice(pattern);
        Ok(Self {
            address,
            pattern: padded,
            size,
            rows,
        })
    }
}

/// Where device addresses are that are not the host's too. Programs, their heaps and their mappings lie below or far
/// above on every 64-bit Linux.
const DEVICE_ADDRESSES: std::ops::Range<u64> = GLOBAL_BASE..1 << 44;

impl State {
    fn is_of_device(&self, address: u64) -> bool {
        let is_shared = || self.memory.find(address).is_some_and(|found| found.live);
        DEVICE_ADDRESSES.contains(&address) || is_shared()
    }

    /// Tells which memory an address is in. Memory that the host and the device share is the device's here, whose
    /// accesses are checked.
    pub(super) fn settle(&self, place: Place) -> Place {
        match place {
            Place::Either(address) if self.is_of_device(address) => Place::Device(address),
            Place::Either(address) => Place::Host(address),
            place => place,
        }
    }

    /// Whether this is memory of the host that was never made known to the driver.
    pub(super) fn is_pageable(&self, place: Place) -> bool {
        match self.settle(place) {
            Place::Host(address) => {
                usize::try_from(address).is_ok_and(|address| self.host_block(address).is_none())
            }
            _ => false,
        }
    }

    pub(super) fn transfer(
        &mut self,
        call: &str,
        to: Place,
        from: Place,
        bytes: usize,
    ) -> Result<(), Status> {
        let (to, from) = (self.settle(to), self.settle(from));
        let memory = &mut self.memory;
        let done = match (to, from) {
            (Place::Device(to), Place::Device(from)) => memory.copy(to, from, bytes as u64),
            (to, Place::Device(from)) => memory.read(from, host_out(to.address()).bytes(bytes)?),
            (Place::Device(to), from) => memory.write(to, host_in(from.address()).bytes(bytes)?),
            (to, from) => {
                return host_copy(host_out(to.address()), host_in(from.address()), bytes);
            }
        };
        done.map_err(|error| State::explain(call, &error))
    }

    pub(super) fn transfer_planes(&mut self, call: &str, what: &Copy3) -> Result<(), Status> {
        if what.is_empty() {
            return Ok(());
        }
        for row in what.rows() {
            let (to, from) = row?;
            self.transfer(call, to, from, what.width)?;
        }
        Ok(())
    }

    pub(super) fn fill(&mut self, call: &str, fill: &Fill) -> Result<(), Status> {
        for row in 0..fill.rows.height {
            let start = row
                .checked_mul(fill.rows.pitch)
                .and_then(|offset| fill.address.checked_add(offset))
                .ok_or(Status::INVALID_VALUE)?;
            self.memory
                .fill(start, &fill.pattern[..fill.size], fill.rows.width)
                .map_err(|error| State::explain(call, &error))?;
        }
        Ok(())
    }
}
