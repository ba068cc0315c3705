//! Memory of the host that the driver allocates or is told of, and managed memory. Pinning and migration mean nothing
//! here; kernels reach all of it, at the addresses that the host has for it.

use std::ffi::c_void;
use std::ops::Range;

use super::abi::{HostOut, Out, Zeroed, driver_api};
use super::context::Context;
use super::handle::Handle;
use super::pool::Location;
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use crate::memory::{GLOBAL_BASE, Home};

/// A block of host memory.
pub(super) struct HostBlock {
    pub(super) context: Handle<Context>,
    pub(super) bytes: usize,
    flags: u32,
    /// What it holds is the program's. Registered memory belongs to the program.
    owned: Option<Zeroed>,
    pub(super) is_managed: bool,
    /// Whether devices reach it.
    pub(super) is_mapped: bool,
    /// The bytes that the host and the devices last agreed on; none before the first time.
    pub(super) seen: Vec<u8>,
    /// Whether an operation is going on that may write to it.
    pub(super) is_fetched: bool,
}

impl HostBlock {
    fn new(context: Handle<Context>, bytes: usize, flags: u32, owned: Option<Zeroed>) -> Self {
        Self {
            context,
            bytes,
            flags,
            owned,
            is_managed: false,
            is_mapped: false,
            seen: Vec::new(),
            is_fetched: false,
        }
    }
}

/// Portable, mapped, write-combined.
const ALLOC_FLAGS: u32 = 7;
/// Portable, mapped, of a device, read-only.
const REGISTER_FLAGS: u32 = 15;
/// Managed memory that streams reach from the start, or only the host.
const MANAGED_FLAGS: [u32; 2] = [1, 2];

fn allocate(
    call: &str,
    out: Out<*mut c_void>,
    bytes: usize,
    flags: u32,
    is_managed: bool,
) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.healthy()?;
    state.check_unsafe()?;
    let are_right = if is_managed {
        MANAGED_FLAGS.contains(&flags)
    } else {
        flags & !ALLOC_FLAGS == 0
    };
    if bytes == 0 || !are_right {
        return Err(Status::INVALID_VALUE);
    }
    // More than a device has would be more than a computer has, which systems notice when it is too late.
    if bytes as u64 > state.memory.capacity() {
        return Err(Status::OUT_OF_MEMORY);
    }
    let memory = Zeroed::new(bytes).ok_or(Status::OUT_OF_MEMORY)?;
    let address = memory.address();
    let mut block = HostBlock::new(context, bytes, flags, Some(memory));
    block.is_managed = is_managed;
    state.map(call, address, block)?;
    out.set(std::ptr::with_exposed_provenance_mut(address))
}

impl State {
    /// Lets devices reach a block of host memory.
    fn map(&mut self, call: &str, address: usize, mut block: HostBlock) -> Result<(), Status> {
        let placed = self
            .memory
            .place_at(address as u64, block.bytes as u64, call, Home::Host);
        placed.map_err(|error| State::explain(call, &error))?;
        block.is_mapped = true;
        self.host.insert(address, block);
        Ok(())
    }

    /// Takes back a block of host memory.
    pub(super) fn unmap(&mut self, address: usize) -> Result<(), Status> {
        let Some(block) = self.host.remove(&address) else {
            return Err(Status::INVALID_VALUE);
        };
        if block.is_mapped {
            // It waits for all that may still use the memory.
            self.timeline.synchronize_all();
            self.memory.begin("the end of host memory", Vec::new());
            let freed = self.memory.free(address as u64);
            freed.map_err(|error| State::explain("cuMemFreeHost", &error))?;
        }
        Ok(())
    }

    /// The block of managed memory that a range lies in.
    fn check_managed(&self, address: u64, bytes: usize) -> Result<(), Status> {
        let block = usize::try_from(address).ok();
        let block = block.and_then(|address| self.host_block(address));
        let (start, block) = block.ok_or(Status::INVALID_VALUE)?;
        let end = (address as usize - start).checked_add(bytes);
        let fits = bytes > 0 && end.is_some_and(|end| end <= block.bytes);
        if block.is_managed && fits {
            Ok(())
        } else {
            Err(Status::INVALID_VALUE)
        }
    }

    /// Turns down what is no device and not the host, whose number is -1.
    fn check_place(&self, place: i32) -> Result<(), Status> {
        if place == -1 {
            Ok(())
        } else {
            self.check_device(place)
        }
    }
}

/// Whether the program may read and write all of these addresses, as far as the system tells. Those of memory that is
/// registered are read at every launch.
fn is_memory(addresses: Range<usize>) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return true;
    };
    let mut next = addresses.start;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else {
            continue;
        };
        let ends = range.split_once('-');
        let ends = ends.map(|(low, high)| [low, high].map(|end| usize::from_str_radix(end, 16)));
        let Some([Ok(low), Ok(high)]) = ends else {
            continue;
        };
        // They are in order of address.
        if rights.starts_with("rw") && (low..high).contains(&next) {
            next = high;
        }
        if next >= addresses.end {
            return true;
        }
    }
    false
}

fn prefetch(address: u64, bytes: usize, place: i32, stream: Handle<Stream>) -> Result<(), Status> {
    let mut state = lock()?;
    state.working_stream(stream)?;
    state.check_not_captured(stream)?;
    state.check_place(place)?;
    // Memory is where it is needed, at all times.
    state.check_managed(address, bytes)
}

fn advise(address: u64, bytes: usize, advice: u32, place: i32) -> Result<(), Status> {
    let state = lock()?;
    state.healthy()?;
    state.check_place(place)?;
    // Read mostly, preferred place, accessed by: set and unset.
    if !(1..=6).contains(&advice) {
        return Err(Status::INVALID_VALUE);
    }
    state.check_managed(address, bytes)
}

driver_api! {
    fn cuMemHostAlloc(out: Out<*mut c_void>, bytes: usize, flags: u32) {
        allocate("cuMemHostAlloc", out, bytes, flags, false)
    }

    fn cuMemAllocHost_v2(out: Out<*mut c_void>, bytes: usize) {
        allocate("cuMemAllocHost", out, bytes, 0, false)
    }

    fn cuMemFreeHost(pointer: HostOut) {
        let mut state = lock()?;
        match state.host.get(&pointer.address()) {
            Some(block) if block.owned.is_some() && !block.is_managed => {
                state.check_unsafe()?;
                state.unmap(pointer.address())
            }
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemHostRegister_v2(pointer: HostOut, bytes: usize, flags: u32) {
        let mut state = lock()?;
        let context = state.healthy()?;
        let start = pointer.address();
        let end = start.checked_add(bytes).ok_or(Status::INVALID_VALUE)?;
        if start == 0 || bytes == 0 || flags & !REGISTER_FLAGS != 0 || !is_memory(start..end) {
            return Err(Status::INVALID_VALUE);
        }
        let overlaps = state
            .host
            .range(..end)
            .next_back()
            .is_some_and(|(&other, block)| other + block.bytes > start);
        if overlaps {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let block = HostBlock::new(context, bytes, flags, None);
        // The addresses below are the devices' own.
        if (start as u64) < GLOBAL_BASE {
            state.host.insert(start, block);
            return Ok(());
        }
        state.map("cuMemHostRegister", start, block)
    }

    fn cuMemHostUnregister(pointer: HostOut) {
        let mut state = lock()?;
        match state.host.get(&pointer.address()) {
            Some(block) if block.owned.is_none() => state.unmap(pointer.address()),
            Some(_) => Err(Status::INVALID_VALUE),
            None => Err(Status::HOST_MEMORY_NOT_REGISTERED),
        }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: HostOut) {
        let state = lock()?;
        let block = state.host_block(pointer.address()).ok_or(Status::INVALID_VALUE)?;
        flags.set(block.1.flags)
    }

    fn cuMemHostGetDevicePointer_v2(out: Out<u64>, pointer: HostOut, flags: u32) {
        let out = out.required()?;
        let state = lock()?;
        state.healthy()?;
        let address = pointer.address();
        let (_, block) = state.host_block(address).ok_or(Status::INVALID_VALUE)?;
        if flags != 0 || !block.is_mapped {
            return Err(Status::INVALID_VALUE);
        }
        out.set(address as u64)
    }

    fn cuMemAllocManaged(out: Out<*mut c_void>, bytes: usize, flags: u32) {
        allocate("cuMemAllocManaged", out, bytes, flags, true)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: i32, stream: Handle<Stream>) {
        prefetch(address, bytes, device, stream)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64,
        bytes: usize,
        location: Location,
        flags: u32,
        stream: Handle<Stream>,
    ) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        prefetch(address, bytes, location.place()?, stream)
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, device: i32) {
        advise(address, bytes, advice, device)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: Location) {
        advise(address, bytes, advice, location.place()?)
    }

    fn cuStreamAttachMemAsync(stream: Handle<Stream>, address: u64, bytes: usize, flags: u32) {
        let mut state = lock()?;
        state.working_stream(stream)?;
        state.check_not_captured(stream)?;
        // To all streams, to none, to this one: any may access it at any time.
        if !matches!(flags, 1 | 2 | 4) {
            return Err(Status::INVALID_VALUE);
        }
        // No bytes stand for all of the allocation.
        state.check_managed(address, bytes.max(1))
    }
}

impl State {
    /// The block of host memory an address lies in, with its start.
    pub(super) fn host_block(&self, address: usize) -> Option<(usize, &HostBlock)> {
        let (&start, block) = self.host.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((start, block))
    }
}
