//! Device memory: one flat address space of allocations.
//!
//! Addresses are numbers, never host pointers. Between allocations there is a gap, and no address is
//! ever used twice, so an access out of bounds or after a free always hits nothing and can say what
//! it missed.

mod bits;

pub(crate) use bits::Bits;

use thiserror::Error;

/// Where device addresses begin. Everything below is null-like or a window of generic addressing.
pub const GLOBAL_BASE: u64 = 0x7_0000_0000;
/// Alignment of every allocation, as `cuMemAlloc` has it or better.
const ALIGN: u64 = 512;
/// Unused addresses behind every allocation: more than any one access can span.
const GAP: u64 = 64 * 1024;

/// Why a host-side operation on device memory failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// More was asked for than is left.
    #[error("out of device memory")]
    OutOfMemory,
    /// An allocation of no bytes.
    #[error("an allocation of no bytes")]
    ZeroSize,
    /// The address is not the start of an allocation.
    #[error("0x{0:x} is not the start of an allocation")]
    NotAnAllocation(u64),
    /// The allocation was freed before.
    #[error("0x{0:x} was freed before")]
    DoubleFree(u64),
    /// The bytes are not all inside one live allocation.
    #[error("the {bytes} bytes at 0x{address:x} are not inside a live allocation")]
    OutOfBounds {
        /// First address.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
}

/// What is known of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationInfo {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
    /// What made it, for reports.
    pub origin: String,
    /// False once it is freed.
    pub live: bool,
}

/// One allocation with its contents; a freed one keeps its place without contents.
#[derive(Debug)]
pub(crate) struct Allocation {
    base: u64,
    len: u64,
    origin: String,
    live: bool,
    data: Vec<u8>,
    /// One bit for every byte that was written.
    written: Bits,
}

/// The memory of one device.
#[derive(Debug)]
pub struct GlobalMemory {
    /// In order of address, which is the order they were made in.
    allocations: Vec<Allocation>,
    next: u64,
    in_use: u64,
    capacity: u64,
}

impl GlobalMemory {
    /// Memory of `capacity` bytes, all free.
    pub fn new(capacity: u64) -> Self {
        Self {
            allocations: Vec::new(),
            next: GLOBAL_BASE,
            in_use: 0,
            capacity,
        }
    }

    /// Allocates; the contents are not initialised. `origin` names the call in reports.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], [`MemoryError::ZeroSize`].
    pub fn alloc(&mut self, bytes: u64, origin: &str) -> Result<u64, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::ZeroSize);
        }
        if bytes > self.capacity - self.in_use {
            return Err(MemoryError::OutOfMemory);
        }
        let size = usize::try_from(bytes).map_err(|_| MemoryError::OutOfMemory)?;
        let mut data = Vec::new();
        data.try_reserve_exact(size)
            .map_err(|_| MemoryError::OutOfMemory)?;
        data.resize(size, 0);
        let base = self.next;
        self.next = base
            .checked_add(bytes)
            .and_then(|end| end.checked_next_multiple_of(ALIGN))
            .and_then(|end| end.checked_add(GAP))
            .ok_or(MemoryError::OutOfMemory)?;
        self.in_use += bytes;
        self.allocations.push(Allocation {
            base,
            len: bytes,
            origin: origin.to_owned(),
            live: true,
            data,
            written: Bits::new(size),
        });
        Ok(base)
    }

    /// Frees the allocation that starts at `address`.
    ///
    /// # Errors
    /// [`MemoryError::NotAnAllocation`], [`MemoryError::DoubleFree`].
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let index = self
            .index_below(address)
            .filter(|&index| self.allocations[index].base == address)
            .ok_or(MemoryError::NotAnAllocation(address))?;
        let allocation = &mut self.allocations[index];
        if !allocation.live {
            return Err(MemoryError::DoubleFree(address));
        }
        allocation.live = false;
        allocation.data = Vec::new();
        allocation.written = Bits::new(0);
        self.in_use -= allocation.len;
        Ok(())
    }

    /// Copies device memory to the host, initialised or not.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let (index, range) = self.range(address, out.len() as u64)?;
        out.copy_from_slice(&self.allocations[index].data[range]);
        Ok(())
    }

    /// Copies host memory to the device.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (index, range) = self.range(address, data.len() as u64)?;
        let allocation = &mut self.allocations[index];
        allocation.written.set(range.clone());
        allocation.data[range].copy_from_slice(data);
        Ok(())
    }

    /// Writes `pattern` `count` times.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let out_of_bounds = MemoryError::OutOfBounds {
            address,
            bytes: u64::MAX,
        };
        let bytes = count
            .checked_mul(pattern.len() as u64)
            .ok_or(out_of_bounds)?;
        let (index, range) = self.range(address, bytes)?;
        let allocation = &mut self.allocations[index];
        allocation.written.set(range.clone());
        for chunk in allocation.data[range].chunks_exact_mut(pattern.len().max(1)) {
            chunk.copy_from_slice(pattern);
        }
        Ok(())
    }

    /// Copies within the device. Bytes that were never written stay so in the copy.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn copy(&mut self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryError> {
        let (from, source) = self.range(src, bytes)?;
        let (to, target) = self.range(dst, bytes)?;
        let data = self.allocations[from].data[source.clone()].to_vec();
        let written = self.allocations[from].written.extract(source);
        let allocation = &mut self.allocations[to];
        allocation.data[target.clone()].copy_from_slice(&data);
        allocation.written.replace(target.start, &written);
        Ok(())
    }

    /// The allocation that holds `address`, freed ones included.
    pub fn find(&self, address: u64) -> Option<AllocationInfo> {
        let allocation = &self.allocations[self.index_below(address)?];
        (address - allocation.base < allocation.len).then(|| allocation.info())
    }

    /// The allocation whose bytes are nearest to `address`.
    pub(crate) fn nearest(&self, address: u64) -> Option<AllocationInfo> {
        let below = self.index_below(address);
        let above = below.map_or(0, |index| index + 1);
        let distance = |allocation: &Allocation| {
            let end = allocation.base + allocation.len;
            allocation
                .base
                .saturating_sub(address)
                .max((address + 1).saturating_sub(end))
        };
        let candidates = [below, Some(above)].into_iter().flatten();
        let candidates = candidates.filter_map(|index| self.allocations.get(index));
        candidates
            .min_by_key(|allocation| distance(allocation))
            .map(Allocation::info)
    }

    /// Bytes allocated.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Every allocation that is not freed.
    pub fn live(&self) -> impl Iterator<Item = AllocationInfo> {
        self.allocations
            .iter()
            .filter(|allocation| allocation.live)
            .map(Allocation::info)
    }

    /// The live allocation that holds all of `bytes` bytes at `address`; `hint` is where the last
    /// access was.
    #[inline]
    pub(crate) fn locate(&self, address: u64, bytes: u64, hint: &mut usize) -> Option<usize> {
        let holds = |index: usize| {
            self.allocations
                .get(index)
                .is_some_and(|allocation| allocation.holds(address, bytes))
        };
        if holds(*hint) {
            return Some(*hint);
        }
        let index = self.index_below(address)?;
        if !holds(index) {
            return None;
        }
        *hint = index;
        Some(index)
    }

    /// An allocation found by [`GlobalMemory::locate`].
    #[inline]
    pub(crate) fn allocation(&self, index: usize) -> &Allocation {
        &self.allocations[index]
    }

    /// An allocation found by [`GlobalMemory::locate`].
    #[inline]
    pub(crate) fn allocation_mut(&mut self, index: usize) -> &mut Allocation {
        &mut self.allocations[index]
    }

    /// The last allocation that starts at or below `address`.
    fn index_below(&self, address: u64) -> Option<usize> {
        self.allocations
            .partition_point(|allocation| allocation.base <= address)
            .checked_sub(1)
    }

    fn range(
        &self,
        address: u64,
        bytes: u64,
    ) -> Result<(usize, std::ops::Range<usize>), MemoryError> {
        let index = self
            .locate(address, bytes, &mut usize::MAX.clone())
            .ok_or(MemoryError::OutOfBounds { address, bytes })?;
        let start = (address - self.allocations[index].base) as usize;
        Ok((index, start..start + bytes as usize))
    }
}

impl Allocation {
    fn info(&self) -> AllocationInfo {
        AllocationInfo {
            base: self.base,
            len: self.len,
            origin: self.origin.clone(),
            live: self.live,
        }
    }

    #[inline]
    fn holds(&self, address: u64, bytes: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        self.live && offset <= self.len && bytes <= self.len - offset
    }

    #[inline]
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Its contents.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// Its contents, to be written; [`Allocation::mark`] tells what was.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// True when all of `len` bytes at `offset` were ever written.
    #[inline]
    pub(crate) fn is_written(&self, offset: usize, len: usize) -> bool {
        self.written.all(offset..offset + len)
    }

    /// Notes that `len` bytes at `offset` are written.
    #[inline]
    pub(crate) fn mark(&mut self, offset: usize, len: usize) {
        self.written.set(offset..offset + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_hold_what_was_written() {
        let mut memory = GlobalMemory::new(1 << 20);
        let a = memory.alloc(100, "a").expect("room");
        let b = memory.alloc(50, "b").expect("room");
        assert!(a.is_multiple_of(512) && b.is_multiple_of(512) && b > a + 100 + 4096);
        assert_eq!(memory.in_use(), 150);
        memory.write(a + 10, &[1, 2, 3]).expect("inside");
        memory.copy(b, a + 10, 3).expect("inside");
        memory.fill(b + 4, &[7, 8], 3).expect("inside");
        let mut out = [0; 10];
        memory.read(b, &mut out).expect("inside");
        assert_eq!(out, [1, 2, 3, 0, 7, 8, 7, 8, 7, 8]);
    }

    #[test]
    fn copies_carry_what_was_never_written() {
        let mut memory = GlobalMemory::new(1 << 20);
        let a = memory.alloc(8, "a").expect("room");
        let b = memory.alloc(8, "b").expect("room");
        memory.write(b, &[0; 8]).expect("inside");
        memory.write(a + 2, &[9; 3]).expect("inside");
        memory.copy(b, a, 8).expect("inside");
        let index = memory.locate(b, 8, &mut 0).expect("inside");
        let written = |offset| memory.allocation(index).is_written(offset, 1);
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(written),
            [false, false, true, true, true, false]
        );
    }

    #[test]
    fn misuse_is_told_apart() {
        let mut memory = GlobalMemory::new(1000);
        assert_eq!(memory.alloc(0, "z"), Err(MemoryError::ZeroSize));
        assert_eq!(memory.alloc(1001, "z"), Err(MemoryError::OutOfMemory));
        let a = memory.alloc(600, "a").expect("room");
        assert_eq!(memory.alloc(600, "b"), Err(MemoryError::OutOfMemory));
        assert_eq!(memory.free(a + 1), Err(MemoryError::NotAnAllocation(a + 1)));
        let past = MemoryError::OutOfBounds {
            address: a + 599,
            bytes: 2,
        };
        assert_eq!(memory.read(a + 599, &mut [0; 2]), Err(past));
        let absurd = memory.fill(a, &[0; 4], u64::MAX);
        assert!(matches!(absurd, Err(MemoryError::OutOfBounds { .. })));
        assert_eq!(memory.free(a), Ok(()));
        assert_eq!(memory.free(a), Err(MemoryError::DoubleFree(a)));
        assert!(memory.write(a, &[0]).is_err(), "freed");
        assert_eq!(memory.find(a).map(|info| info.live), Some(false));
        assert_eq!(memory.in_use(), 0);
    }

    #[test]
    fn the_nearest_allocation_is_found_on_both_sides() {
        let mut memory = GlobalMemory::new(1 << 20);
        let a = memory.alloc(512, "a").expect("room");
        let b = memory.alloc(512, "b").expect("room");
        let origin = |address| memory.nearest(address).map(|info| info.origin);
        assert_eq!(origin(a + 600).as_deref(), Some("a"));
        assert_eq!(origin(b - 8).as_deref(), Some("b"));
        assert_eq!(origin(0).as_deref(), Some("a"));
        assert_eq!(origin(u64::MAX - 1).as_deref(), Some("b"));
    }
}
