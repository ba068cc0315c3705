//! Device memory: one flat address space of allocations.
//!
//! Addresses are numbers, never host pointers. Between allocations there is a gap, and no address is
//! ever given out twice, so an access out of bounds or after a free always hits nothing and can say
//! what it missed. Allocations are made of pages, which come into being when they are first written
//! and which blocks of a launch lock one at a time, so that several run at once.

mod bits;
mod history;
mod page;

pub(crate) use bits::Bits;
pub(crate) use history::{Clock, Record, SECTOR};
pub(crate) use page::{PAGE, Page};

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// Where device addresses begin. Everything below is null-like or a window of generic addressing.
pub const GLOBAL_BASE: u64 = 0x7_0000_0000;
/// Alignment of every allocation, as `cuMemAlloc` has it or better.
const ALIGN: u64 = 512;
/// Unused addresses behind every allocation: more than any one access can span.
const GAP: u64 = 64 * 1024;
/// Operations of the host and names of operations that are remembered: the latest.
const REMEMBERED: usize = 4096;

/// Why a host-side operation on device memory failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// Another allocation has some of these addresses.
    #[error("the {bytes} bytes at 0x{address:x} are allocated already")]
    Occupied {
        /// First address.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
    /// Two operations of which none happens before the other, one of them a write.
    #[error(
        "{operation} and {earlier} both access the memory at 0x{address:x}, and nothing orders them"
    )]
    Race {
        /// An address that both access.
        address: u64,
        /// The operation that was refused.
        operation: String,
        /// The one that came before.
        earlier: String,
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
    /// False while kernels cannot reach it, because it is another device's.
    pub open: bool,
}

/// Where the bytes of an allocation are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In the memory of the device of this number.
    Device(usize),
    /// In memory of the host that devices reach at the same address.
    Host,
}

/// One allocation with its contents; a freed one keeps its place without contents.
#[derive(Debug)]
pub(crate) struct Allocation {
    base: u64,
    len: u64,
    origin: String,
    home: Home,
    live: bool,
    open: bool,
    /// Live and open, which is asked at each access of a kernel.
    reachable: bool,
    /// By page of addresses, from that of `base`.
    pages: Vec<Mutex<Option<Box<Page>>>>,
}

/// An access of the host to some addresses.
#[derive(Debug)]
struct HostAccess {
    operation: u32,
    addresses: Range<u64>,
    is_write: bool,
}

/// What accesses memory at the moment.
#[derive(Debug, Default)]
struct Operation {
    id: u32,
    /// Earlier operations that are not ordered before it.
    unordered: Vec<u32>,
}

/// The memory of the devices, which have one address space.
#[derive(Debug)]
pub struct GlobalMemory {
    /// In order of address.
    allocations: Vec<Allocation>,
    next: u64,
    /// Bytes allocated on each device.
    in_use: Vec<u64>,
    /// Bytes of each device.
    capacity: u64,
    operation: Operation,
    /// Names of operations.
    names: VecDeque<(u32, String)>,
    /// What the host accessed.
    host: Mutex<VecDeque<HostAccess>>,
    /// While an attempt runs: an address of each page that it wrote.
    attempt: Option<Mutex<Vec<u64>>>,
}

impl GlobalMemory {
    /// Memory of one device of `capacity` bytes, all free.
    pub fn new(capacity: u64) -> Self {
        Self::of_devices(1, capacity)
    }

    /// Memory of several devices of `capacity` bytes each.
    pub fn of_devices(devices: usize, capacity: u64) -> Self {
        Self {
            allocations: Vec::new(),
            next: GLOBAL_BASE,
            in_use: vec![0; devices],
            capacity,
            operation: Operation::default(),
            names: VecDeque::new(),
            host: Mutex::default(),
            attempt: None,
        }
    }

    /// Allocates on the first device; the contents are not initialised. `origin` names the call in reports.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], [`MemoryError::ZeroSize`].
    pub fn alloc(&mut self, bytes: u64, origin: &str) -> Result<u64, MemoryError> {
        self.alloc_on(0, bytes, origin)
    }

    /// Allocates on a device.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], [`MemoryError::ZeroSize`].
    pub fn alloc_on(
        &mut self,
        device: usize,
        bytes: u64,
        origin: &str,
    ) -> Result<u64, MemoryError> {
        self.check_room(device, bytes)?;
        let base = self.reserve(bytes)?;
        self.place_at(base, bytes, origin, Home::Device(device))?;
        Ok(base)
    }

    /// Takes addresses that nothing else gets, for an allocation that is made later.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], [`MemoryError::ZeroSize`].
    pub fn reserve(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::ZeroSize);
        }
        let base = self.next;
        self.next = base
            .checked_add(bytes)
            .and_then(|end| end.checked_next_multiple_of(ALIGN))
            .and_then(|end| end.checked_add(GAP))
            .ok_or(MemoryError::OutOfMemory)?;
        Ok(base)
    }

    fn check_room(&self, device: usize, bytes: u64) -> Result<(), MemoryError> {
        match bytes {
            0 => Err(MemoryError::ZeroSize),
            _ if bytes > self.capacity - self.in_use(device) => Err(MemoryError::OutOfMemory),
            _ => Ok(()),
        }
    }

    /// Allocates at a chosen address on the first device. There may have been an allocation before, which is forgotten.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`], [`MemoryError::ZeroSize`], [`MemoryError::Occupied`].
    pub fn alloc_at(&mut self, base: u64, bytes: u64, origin: &str) -> Result<(), MemoryError> {
        self.place_at(base, bytes, origin, Home::Device(0))
    }

    /// Allocates at a chosen address, for instance that of memory which the host and the devices share.
    ///
    /// # Errors
    /// As [`GlobalMemory::alloc_at`].
    pub fn place_at(
        &mut self,
        base: u64,
        bytes: u64,
        origin: &str,
        home: Home,
    ) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::ZeroSize);
        }
        let end = base.checked_add(bytes).ok_or(MemoryError::OutOfMemory)?;
        if let Home::Device(device) = home {
            self.check_room(device, bytes)?;
        }
        // Allocations are disjoint, those that were freed included.
        let first = self
            .allocations
            .partition_point(|other| other.base + other.len <= base);
        let last = self.allocations.partition_point(|other| other.base < end);
        if self.allocations[first..last].iter().any(|other| other.live) {
            return Err(MemoryError::Occupied {
                address: base,
                bytes,
            });
        }
        let count = usize::try_from((end - 1) / PAGE - base / PAGE + 1);
        let count = count.map_err(|_| MemoryError::OutOfMemory)?;
        let mut pages = Vec::new();
        pages
            .try_reserve_exact(count)
            .map_err(|_| MemoryError::OutOfMemory)?;
        pages.resize_with(count, Mutex::default);
        if let Home::Device(device) = home {
            self.in_use[device] += bytes;
        }
        let allocation = Allocation {
            base,
            len: bytes,
            origin: origin.to_owned(),
            home,
            live: true,
            open: true,
            reachable: true,
            pages,
        };
        self.allocations.splice(first..last, [allocation]);
        Ok(())
    }

    /// Frees the allocation that starts at `address`.
    ///
    /// # Errors
    /// [`MemoryError::NotAnAllocation`], [`MemoryError::DoubleFree`], [`MemoryError::Race`].
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let index = self
            .index_below(address)
            .filter(|&index| self.allocations[index].base == address)
            .ok_or(MemoryError::NotAnAllocation(address))?;
        let Allocation {
            live, len, home, ..
        } = self.allocations[index];
        if !live {
            return Err(MemoryError::DoubleFree(address));
        }
        self.note_host(address, len, true)?;
        let allocation = &mut self.allocations[index];
        allocation.live = false;
        allocation.reachable = false;
        allocation.pages = Vec::new();
        if let Home::Device(device) = home {
            self.in_use[device] -= len;
        }
        Ok(())
    }

    /// Copies device memory to the host, initialised or not.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::Race`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let index = self.place(address, out.len() as u64)?;
        self.note_host(address, out.len() as u64, false)?;
        self.take(index, address, out);
        Ok(())
    }

    fn take(&self, index: usize, address: u64, out: &mut [u8]) {
        let allocation = &self.allocations[index];
        for (addresses, range) in parts(address, out.len()) {
            match allocation.page(addresses.start).as_deref() {
                Some(page) => out[range].copy_from_slice(&page.bytes()[page.offsets(&addresses)]),
                None => out[range].fill(0),
            }
        }
    }

    /// Puts bytes there that the host wrote to memory which it shares with the devices. The host's own loads and stores are
    /// not operations, so nothing is checked.
    pub(crate) fn refresh(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let index = self.place(address, data.len() as u64)?;
        self.put(index, address, data);
        Ok(())
    }

    /// Looks at bytes without an operation that does.
    pub(crate) fn peek(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let index = self.place(address, out.len() as u64)?;
        self.take(index, address, out);
        Ok(())
    }

    /// Lets kernels reach the allocations that `is_open` picks by address and home, and no others.
    pub(crate) fn open(&mut self, is_open: impl Fn(u64, Home) -> bool) {
        for allocation in &mut self.allocations {
            allocation.open = is_open(allocation.base, allocation.home);
            allocation.reachable = allocation.live && allocation.open;
        }
    }

    /// Copies host memory to the device.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::Race`].
    pub fn write(&mut self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let index = self.place(address, data.len() as u64)?;
        self.note_host(address, data.len() as u64, true)?;
        self.put(index, address, data);
        Ok(())
    }

    fn put(&self, index: usize, address: u64, data: &[u8]) {
        let allocation = &self.allocations[index];
        for (addresses, range) in parts(address, data.len()) {
            allocation.with_page(addresses.start, |page| {
                page.mark(addresses.start, range.len());
                let offsets = page.offsets(&addresses);
                page.bytes_mut()[offsets].copy_from_slice(&data[range]);
            });
        }
    }

    /// Writes `pattern` `count` times.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::Race`].
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let bytes = count.checked_mul(pattern.len() as u64);
        let bytes = bytes.ok_or(MemoryError::OutOfBounds {
            address,
            bytes: u64::MAX,
        })?;
        let index = self.place(address, bytes)?;
        self.note_host(address, bytes, true)?;
        let allocation = &self.allocations[index];
        for (addresses, range) in parts(address, bytes as usize) {
            allocation.with_page(addresses.start, |page| {
                page.mark(addresses.start, range.len());
                let offsets = page.offsets(&addresses);
                let from = pattern.iter().cycle().skip(range.start % pattern.len());
                let bytes = &mut page.bytes_mut()[offsets];
                bytes
                    .iter_mut()
                    .zip(from)
                    .for_each(|(to, from)| *to = *from);
            });
        }
        Ok(())
    }

    /// Copies within the device. Bytes that were never written stay so in the copy.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::Race`].
    pub fn copy(&mut self, dst: u64, src: u64, bytes: u64) -> Result<(), MemoryError> {
        let to = self.place(dst, bytes)?;
        let mut data = vec![0; bytes as usize];
        self.read(src, &mut data)?;
        self.note_host(dst, bytes, true)?;
        let written = self.written(src, bytes)?;
        let allocation = &self.allocations[to];
        for (addresses, range) in parts(dst, data.len()) {
            allocation.with_page(addresses.start, |page| {
                let offsets = page.offsets(&addresses);
                page.written_mut()
                    .replace(offsets.start, &written[range.clone()]);
                page.bytes_mut()[offsets].copy_from_slice(&data[range]);
            });
        }
        Ok(())
    }

    /// Which bytes of a range were ever written.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn written(&self, address: u64, bytes: u64) -> Result<Vec<bool>, MemoryError> {
        let index = self.place(address, bytes)?;
        let allocation = &self.allocations[index];
        let mut written = Vec::with_capacity(bytes as usize);
        for (addresses, range) in parts(address, bytes as usize) {
            match allocation.page(addresses.start).as_deref() {
                Some(page) => written.extend(page.written().extract(page.offsets(&addresses))),
                None => written.resize(range.end, false),
            }
        }
        Ok(written)
    }

    /// Starts an operation, that is a launch or something the host does to memory, and returns its number,
    /// from 1. `unordered` are the earlier operations that do not happen before it: where one of the two
    /// writes what the other accesses, that is a race. `what` names it in reports.
    pub fn begin(&mut self, what: &str, unordered: Vec<u32>) -> u32 {
        let id = self.operation.id.wrapping_add(1).max(1);
        self.operation = Operation { id, unordered };
        remember(&mut self.names, (id, what.to_owned()));
        id
    }

    /// Begins an attempt: what launches write from here on can be undone.
    pub(crate) fn begin_attempt(&mut self) {
        self.attempt = Some(Mutex::default());
    }

    /// Ends the attempt, and undoes what it wrote where that is asked for.
    pub(crate) fn end_attempt(&mut self, undo: bool) {
        let Some(written) = self.attempt.take() else {
            return;
        };
        for address in written.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(index) = self.index_below(address) {
                self.allocations[index].with_page(address, |page| page.end_attempt(undo));
            }
        }
    }

    /// To be called before a launch writes to a page.
    #[inline]
    pub(crate) fn save(&self, page: &mut Page, address: u64) {
        if let Some(attempt) = &self.attempt
            && page.save()
        {
            let mut written = attempt.lock().unwrap_or_else(PoisonError::into_inner);
            written.push(address);
        }
    }

    /// The name of an operation, in words for reports.
    pub(crate) fn operation_name(&self, id: u32) -> String {
        let found = self.names.iter().find(|(known, _)| *known == id);
        found.map_or_else(
            || "an earlier operation".to_owned(),
            |(_, name)| name.clone(),
        )
    }

    /// The operation that was begun last.
    #[inline]
    pub(crate) fn operation(&self) -> u32 {
        self.operation.id
    }

    /// The earlier operations that do not happen before it.
    #[inline]
    pub(crate) fn unordered(&self) -> &[u32] {
        &self.operation.unordered
    }

    /// An access of the host to some of these addresses that is not ordered before the current operation.
    pub(crate) fn host_conflict(&self, addresses: Range<u64>, is_write: bool) -> Option<u32> {
        if self.operation.unordered.is_empty() {
            return None;
        }
        let meets = |access: &&HostAccess| {
            access.addresses.start < addresses.end
                && addresses.start < access.addresses.end
                && (is_write || access.is_write)
                && self.operation.unordered.contains(&access.operation)
        };
        self.host()
            .iter()
            .find(meets)
            .map(|access| access.operation)
    }

    fn host(&self) -> MutexGuard<'_, VecDeque<HostAccess>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the host accesses these bytes, which is turned down where something unordered does too.
    fn note_host(&self, address: u64, bytes: u64, is_write: bool) -> Result<(), MemoryError> {
        let addresses = address..address + bytes;
        let earlier = self
            .host_conflict(addresses.clone(), is_write)
            .or_else(|| self.launch_conflict(address, bytes, is_write));
        if let Some(earlier) = earlier {
            return Err(MemoryError::Race {
                address,
                operation: self.operation_name(self.operation.id),
                earlier: self.operation_name(earlier),
            });
        }
        if self.operation.id != 0 {
            let access = HostAccess {
                operation: self.operation.id,
                addresses,
                is_write,
            };
            remember(&mut self.host(), access);
        }
        Ok(())
    }

    /// A launch that accessed some of these bytes and is not ordered before the current operation.
    fn launch_conflict(&self, address: u64, bytes: u64, is_write: bool) -> Option<u32> {
        let unordered = &self.operation.unordered;
        if unordered.is_empty() {
            return None;
        }
        let allocation = &self.allocations[self.place(address, bytes).ok()?];
        parts(address, bytes as usize).find_map(|(addresses, _)| {
            let page = allocation.page(addresses.start);
            let page = page.as_deref()?;
            let found = page.conflict_with(page.offsets(&addresses), is_write, unordered);
            found.map(|record| record.operation)
        })
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

    /// Bytes allocated on a device.
    pub fn in_use(&self, device: usize) -> u64 {
        self.in_use[device]
    }

    /// Bytes of each device.
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

    /// The allocation that kernels can reach which holds all of `bytes` bytes at `address`; `hint` is where the last
    /// access was.
    #[inline]
    pub(crate) fn locate(&self, address: u64, bytes: u64, hint: &mut usize) -> Option<usize> {
        let holds = |index: usize| {
            self.allocations
                .get(index)
                .is_some_and(|allocation| allocation.reachable && allocation.spans(address, bytes))
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

    /// The last allocation that starts at or below `address`.
    fn index_below(&self, address: u64) -> Option<usize> {
        self.allocations
            .partition_point(|allocation| allocation.base <= address)
            .checked_sub(1)
    }

    /// The index of the live allocation that holds all of a range.
    fn place(&self, address: u64, bytes: u64) -> Result<usize, MemoryError> {
        let holds = |&index: &usize| {
            let allocation = &self.allocations[index];
            allocation.live && allocation.spans(address, bytes)
        };
        self.index_below(address)
            .filter(holds)
            .ok_or(MemoryError::OutOfBounds { address, bytes })
    }
}

/// Keeps the latest.
fn remember<T>(all: &mut VecDeque<T>, one: T) {
    if all.len() == REMEMBERED {
        all.pop_front();
    }
    all.push_back(one);
}

/// A range of addresses page by page, each with the indices of its bytes in the whole.
fn parts(address: u64, len: usize) -> impl Iterator<Item = (Range<u64>, Range<usize>)> {
    let end = address + len as u64;
    let mut next = address;
    std::iter::from_fn(move || {
        let start = next;
        next = end.min((start / PAGE + 1) * PAGE);
        let indices = (start - address) as usize..(next - address) as usize;
        (start < end).then_some((start..next, indices))
    })
}

impl Allocation {
    pub(crate) fn info(&self) -> AllocationInfo {
        AllocationInfo {
            base: self.base,
            len: self.len,
            origin: self.origin.clone(),
            live: self.live,
            open: self.open,
        }
    }

    #[inline]
    fn spans(&self, address: u64, bytes: u64) -> bool {
        let offset = address.wrapping_sub(self.base);
        offset <= self.len && bytes <= self.len - offset
    }

    /// The addresses that are in the page of an address.
    #[inline]
    pub(crate) fn page_of(&self, address: u64) -> Range<u64> {
        let first = address / PAGE * PAGE;
        first.max(self.base)..(first + PAGE).min(self.base + self.len)
    }

    /// The page of an address, locked; nothing was ever written where there is none.
    #[inline]
    pub(crate) fn page(&self, address: u64) -> MutexGuard<'_, Option<Box<Page>>> {
        let index = (address / PAGE - self.base / PAGE) as usize;
        // What a page holds is valid at any time, also after a panic in its midst.
        self.pages[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the page of an address.
    #[inline]
    pub(crate) fn with_page<R>(&self, address: u64, f: impl FnOnce(&mut Page) -> R) -> R {
        let mut page = self.page(address);
        f(page.get_or_insert_with(|| self.new_page(address)))
    }

    #[cold]
    fn new_page(&self, address: u64) -> Box<Page> {
        let Range { start, end } = self.page_of(address);
        let start = start / SECTOR as u64 * SECTOR as u64;
        Box::new(Page::new(start, (end - start) as usize))
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
        assert_eq!(memory.in_use(0), 150);
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
        let written = memory.written(b, 6).expect("inside");
        assert_eq!(written, [false, false, true, true, true, false]);
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
        assert_eq!(memory.in_use(0), 0);
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

    #[test]
    fn pages_meet_without_a_seam() {
        let mut memory = GlobalMemory::new(1 << 30);
        memory
            .alloc_at(GLOBAL_BASE + 100, 1 << 20, "odd")
            .expect("room");
        let start = GLOBAL_BASE + 100 + PAGE - 200;
        let data: Vec<u8> = (0..PAGE + 300).map(|at| (at % 251) as u8).collect();
        memory.write(start, &data).expect("inside");
        memory.fill(start + PAGE, &[1, 2, 3], 5).expect("inside");
        let mut out = vec![0; data.len() + 2];
        memory.read(start - 1, &mut out).expect("inside");
        assert_eq!((out[0], out[data.len() + 1]), (0, 0));
        assert_eq!(out[1..=PAGE as usize], data[..PAGE as usize]);
        assert_eq!(out[1 + PAGE as usize..][..6], [1, 2, 3, 1, 2, 3]);
        let written = memory.written(start - 1, out.len() as u64).expect("inside");
        assert_eq!(
            written.iter().filter(|&&written| written).count(),
            data.len()
        );
    }

    #[test]
    fn chosen_addresses_do_not_meet() {
        let mut memory = GlobalMemory::new(1 << 20);
        memory.alloc_at(0x5000_1000, 64, "low").expect("room");
        let occupied = memory.alloc_at(0x5000_103f, 64, "over it");
        assert!(matches!(occupied, Err(MemoryError::Occupied { .. })));
        let high = memory.alloc(64, "high").expect("room");
        memory.write(0x5000_1000, &[1; 64]).expect("inside");
        memory.write(high, &[2; 64]).expect("inside");
        assert_eq!(
            memory
                .nearest(0x5000_2000)
                .map(|info| info.origin)
                .as_deref(),
            Some("low")
        );
        memory.free(0x5000_1000).expect("live");
        memory
            .alloc_at(0x5000_1020, 64, "again")
            .expect("it was freed");
        assert_eq!(
            memory.written(0x5000_1020, 64).expect("inside"),
            [false; 64]
        );
    }

    #[test]
    fn devices_have_room_of_their_own() {
        let mut memory = GlobalMemory::of_devices(2, 1000);
        let first = memory.alloc_on(0, 900, "first").expect("room");
        let second = memory.alloc_on(1, 900, "second").expect("room");
        assert_eq!(
            memory.alloc_on(1, 200, "more"),
            Err(MemoryError::OutOfMemory)
        );
        memory
            .place_at(0x5555_0000_0000, 5000, "the host's", Home::Host)
            .expect("it takes none of a device's room");
        memory.open(|_, home| home != Home::Device(1));
        assert!(memory.locate(first, 4, &mut 0).is_some());
        assert!(memory.locate(second, 4, &mut 1).is_none(), "not open");
        memory
            .read(second, &mut [0; 4])
            .expect("the host reaches it");
        memory.free(second).expect("live");
        memory.open(|_, _| true);
        assert!(memory.locate(second, 4, &mut 1).is_none(), "freed");
        assert_eq!((memory.in_use(0), memory.in_use(1)), (900, 0));
    }

    #[test]
    fn huge_allocations_cost_nothing_until_written() {
        let mut memory = GlobalMemory::new(1 << 40);
        let address = memory.alloc(1 << 36, "64 GiB").expect("room");
        memory.write(address + (1 << 35), &[7]).expect("inside");
        let mut out = [0; 2];
        memory.read(address + (1 << 35), &mut out).expect("inside");
        assert_eq!(out, [7, 0]);
    }

    #[test]
    fn operations_that_nothing_orders_are_told() {
        let mut memory = GlobalMemory::new(1 << 20);
        let a = memory.alloc(64, "a").expect("room");
        let first = memory.begin("a copy in stream 1", vec![]);
        memory.write(a, &[1; 32]).expect("inside");
        memory.begin("a copy in stream 2", vec![first]);
        memory.write(a + 32, &[1; 32]).expect("other bytes");
        let race = memory.read(a + 16, &mut [0; 32]).expect_err("a race");
        let text = race.to_string();
        assert!(
            text.contains("stream 1") && text.contains("stream 2"),
            "{text}"
        );
        memory.begin("a copy in stream 2", vec![]);
        memory.read(a + 16, &mut [0; 32]).expect("ordered now");
    }
}
