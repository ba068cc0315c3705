//! A stretch of an allocation: its bytes, which of them were written, and who accessed them.

use std::ops::Range;

use super::bits::Bits;
use super::history::{Clock, Record, SECTOR, Sector};

/// Addresses of a page. An access that is aligned to its size is in one page.
pub(crate) const PAGE: u64 = 1 << 16;

/// What is there of a page of addresses.
#[derive(Debug)]
pub(crate) struct Page {
    /// The first address; a multiple of a sector.
    start: u64,
    data: Vec<u8>,
    written: Bits,
    /// Empty until something is noted.
    sectors: Vec<Sector>,
    /// What an attempt found here before it wrote.
    saved: Option<(Vec<u8>, Bits)>,
}

impl Page {
    /// Never written.
    pub(crate) fn new(start: u64, bytes: usize) -> Self {
        Self {
            start,
            data: vec![0; bytes],
            written: Bits::new(bytes),
            sectors: Vec::new(),
            saved: None,
        }
    }

    /// The address of its first byte.
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Where some addresses are in it.
    #[inline]
    pub(crate) fn offsets(&self, addresses: &Range<u64>) -> Range<usize> {
        (addresses.start - self.start) as usize..(addresses.end - self.start) as usize
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Its bytes, to be written; [`Page::mark`] tells which were.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// True when all of `len` bytes at an address were ever written.
    #[inline]
    pub(crate) fn is_written(&self, address: u64, len: usize) -> bool {
        let offset = (address - self.start) as usize;
        self.written.all(offset..offset + len)
    }

    /// Notes that `len` bytes at an address are written.
    #[inline]
    pub(crate) fn mark(&mut self, address: u64, len: usize) {
        let offset = (address - self.start) as usize;
        self.written.set(offset..offset + len);
    }

    pub(crate) fn written(&self) -> &Bits {
        &self.written
    }

    pub(crate) fn written_mut(&mut self) -> &mut Bits {
        &mut self.written
    }

    /// Keeps what is here until [`Page::end_attempt`]; false when it is kept already.
    #[inline]
    pub(crate) fn save(&mut self) -> bool {
        let is_first = self.saved.is_none();
        if is_first {
            self.saved = Some((self.data.clone(), self.written.clone()));
        }
        is_first
    }

    /// Forgets what was kept, or puts it back.
    pub(crate) fn end_attempt(&mut self, undo: bool) {
        if let Some((data, written)) = self.saved.take()
            && undo
        {
            (self.data, self.written) = (data, written);
        }
    }

    /// Notes an access to `bytes` of a sector, or returns what it races with and where.
    #[inline]
    pub(crate) fn access(
        &mut self,
        sector: usize,
        bytes: u32,
        now: Record,
        clock: &impl Clock,
    ) -> Result<(), (Record, u64)> {
        if self.sectors.is_empty() {
            let sectors = self.data.len().div_ceil(SECTOR);
            self.sectors = vec![Sector::default(); sectors];
        }
        self.sectors[sector]
            .access(bytes, now, clock)
            .map_err(|(other, bytes)| {
                let offset = sector * SECTOR + bytes.trailing_zeros() as usize;
                (other, self.start + offset as u64)
            })
    }

    /// An access of some operations to a range of offsets that an access of the host conflicts with.
    pub(crate) fn conflict_with(
        &self,
        range: Range<usize>,
        is_write: bool,
        operations: &[u32],
    ) -> Option<Record> {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        let sectors = self
            .sectors
            .iter()
            .enumerate()
            .take(sectors.end)
            .skip(sectors.start);
        sectors
            .filter_map(|(index, sector)| {
                let low = range.start.saturating_sub(index * SECTOR);
                let high = (range.end - index * SECTOR).min(SECTOR);
                let bytes = (u64::MAX >> (64 - high) << low) as u32;
                sector.conflict_with(bytes, is_write, operations)
            })
            .copied()
            .next()
    }
}
