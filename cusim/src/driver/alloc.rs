//! Memory of the device, and what can be asked about a pointer.

use std::ffi::c_void;

use super::abi::{HostOut, In, Out, driver_api};
use super::handle::Handle;
use super::pool::Pool;
use super::state::{Owner, State, lock};
use super::status::Status;
use super::stream::Stream;
use super::work::Work;
use crate::memory::{Home, MemoryError};

/// Rows of `cuMemAllocPitch` start at multiples of this.
const PITCH: usize = 512;

/// Addresses that a node of a graph allocates at each launch.
#[derive(Clone, Copy)]
pub(super) struct Reservation {
    pub(super) address: u64,
    bytes: usize,
    owner: Owner,
}

impl State {
    /// Turns down a call with bad addresses, and says what was wrong with them.
    pub(super) fn explain(call: &str, error: &MemoryError) -> Status {
        match error {
            MemoryError::OutOfMemory => Status::OUT_OF_MEMORY,
            MemoryError::Race { .. } => {
                eprintln!("cusim: {call}: {error}");
                Status::LAUNCH_FAILED
            }
            error => {
                eprintln!("cusim: {call}: {error}");
                Status::INVALID_VALUE
            }
        }
    }

    fn allocate(&mut self, call: &str, bytes: usize, owner: Owner) -> Result<u64, Status> {
        let device = self.device_of(owner.context)?;
        let address = self
            .memory
            .alloc_on(device, bytes as u64, call)
            .map_err(|error| State::explain(call, &error))?;
        self.own(address, bytes, owner);
        Ok(address)
    }

    /// Notes whose an allocation is.
    fn own(&mut self, address: u64, bytes: usize, owner: Owner) {
        self.owners.insert(address, owner);
        if let Some(pool) = owner.pool.and_then(|pool| self.pools.get_mut(pool).ok()) {
            pool.used += bytes as u64;
            pool.used_high = pool.used_high.max(pool.used);
        }
    }

    /// Allocates what a graph has had addresses for since it was captured.
    pub(super) fn allocate_reserved(
        &mut self,
        call: &str,
        reserved: &Reservation,
    ) -> Result<(), Status> {
        let Reservation {
            address,
            bytes,
            owner,
        } = *reserved;
        let device = self.device_of(owner.context)?;
        let home = Home::Device(device);
        self.memory
            .place_at(address, bytes as u64, call, home)
            .map_err(|error| State::explain(call, &error))?;
        self.own(address, bytes, owner);
        Ok(())
    }

    pub(super) fn release(&mut self, call: &str, address: u64) -> Result<(), Status> {
        let bytes = self.memory.find(address).map_or(0, |found| found.len);
        self.memory
            .free(address)
            .map_err(|error| State::explain(call, &error))?;
        let owner = self.owners.remove(&address);
        if let Some(pool) = owner.and_then(|owner| owner.pool)
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used = pool.used.saturating_sub(bytes);
        }
        Ok(())
    }
}

impl State {
    /// Graphs free what graphs allocated, and nothing else.
    fn capture_free(&mut self, address: u64, stream: Handle<Stream>) -> Result<(), Status> {
        if !self.of_graphs.contains(&address) {
            eprintln!(
                "cusim: cuMemFreeAsync: 0x{address:x} was not allocated in a capture, so it cannot be freed in one"
            );
            return Err(Status::INVALID_VALUE);
        }
        let work = Work::Free(address);
        self.capture(stream, "cuMemFreeAsync", &work).map(|_| ())
    }
}

fn allocate(call: &str, out: Out<u64>, bytes: usize) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.healthy()?;
    state.check_unsafe()?;
    let owner = Owner {
        context,
        pool: None,
    };
    let address = state.allocate(call, bytes, owner)?;
    out.set(address)
}

fn allocate_in_stream(
    call: &'static str,
    out: Out<u64>,
    bytes: usize,
    pool: Option<Handle<Pool>>,
    stream: Handle<Stream>,
) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.working_stream(stream)?;
    let current = state.devices[state.device_of(context)?].current_pool;
    let pool = pool.unwrap_or(current);
    state.pools.get(pool)?;
    let owner = Owner {
        context,
        pool: Some(pool),
    };
    if state.is_captured(stream)? {
        let reserved = state.memory.reserve(bytes as u64);
        let address = reserved.map_err(|error| State::explain(call, &error))?;
        let reserved = Reservation {
            address,
            bytes,
            owner,
        };
        state.capture(stream, call, &Work::Allocate(reserved))?;
        state.of_graphs.insert(address);
        return out.set(address);
    }
    state.check_default_stream(stream)?;
    let address = state.allocate(call, bytes, owner)?;
    out.set(address)
}

driver_api! {
    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) {
        allocate("cuMemAlloc", out, bytes)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        let pitch = pitch.required()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Status::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
        allocate("cuMemAllocPitch", out, bytes)?;
        pitch.set(row)
    }

    fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: Handle<Stream>) {
        allocate_in_stream("cuMemAllocAsync", out, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, pool: Handle<Pool>, stream: Handle<Stream>) {
        allocate_in_stream("cuMemAllocFromPoolAsync", out, bytes, Some(pool), stream)
    }

    fn cuMemFree_v2(address: u64) {
        let mut state = lock()?;
        if address == 0 {
            return Ok(());
        }
        // After a fault the call fails like all others, but the memory is gone all the same.
        let healthy = state.healthy();
        state.check_unsafe()?;
        // It waits for all that may still use the memory.
        state.timeline.synchronize_all();
        let managed = state.host.get(&(address as usize)).is_some_and(|block| block.is_managed);
        if managed {
            state.unmap(address as usize)?;
        } else {
            let lane = state.lane(Handle::NULL)?;
            state.begin("cuMemFree", lane);
            state.release("cuMemFree", address)?;
        }
        healthy.map(|_| ())
    }

    fn cuMemFreeAsync(address: u64, stream: Handle<Stream>) {
        let mut state = lock()?;
        let context = state.stream_context(stream)?;
        if state.is_captured(stream)? {
            return state.capture_free(address, stream);
        }
        state.check_default_stream(stream)?;
        let lane = state.lane(stream)?;
        state.begin("cuMemFreeAsync", lane);
        state.release("cuMemFreeAsync", address)?;
        state.check_health(context)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let state = lock()?;
        state.healthy()?;
        let device = state.device_of(state.current()?)?;
        free.set((state.memory.capacity() - state.memory.in_use(device)) as usize)?;
        total.set(state.memory.capacity() as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        let state = lock()?;
        let found = state.memory.find(address).filter(|found| found.live);
        let found = found.ok_or(Status::NOT_FOUND)?;
        base.set_if_wanted(found.base);
        bytes.set_if_wanted(found.len as usize);
        Ok(())
    }

    fn cuPointerGetAttribute(value: HostOut, attribute: u32, address: u64) {
        let state = lock()?;
        state.healthy()?;
        let pointer = state.pointer(address).ok_or(Status::INVALID_VALUE)?;
        pointer.attribute(attribute, value)
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, values: In<HostOut>, address: u64) {
        let state = lock()?;
        state.healthy()?;
        // Here, and only here, a pointer the driver does not know is no error: it has no attributes.
        let pointer = state.pointer(address).unwrap_or(Pointer::default());
        for index in 0..count as usize {
            let value = values.at(index)?;
            match pointer.attribute(attributes.at(index)?, value) {
                Ok(()) | Err(Status::INVALID_VALUE) => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: In<u32>, attribute: u32, address: u64) {
        let state = lock()?;
        value.get()?;
        // Memory operations are synchronous whatever is asked for.
        match (attribute, state.pointer(address)) {
            (SYNC_MEMOPS, Some(pointer)) if pointer.device => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

const SYNC_MEMOPS: u32 = 6;

/// What is known about a pointer; nothing at first.
#[derive(Default)]
struct Pointer {
    device: bool,
    /// In memory of the host that the driver knows.
    host: bool,
    is_managed: bool,
    /// Whether kernels reach it.
    is_mapped: bool,
    ordinal: i32,
    address: u64,
    context: u64,
    start: u64,
    bytes: u64,
    pool: u64,
}

impl State {
    fn pointer(&self, address: u64) -> Option<Pointer> {
        if let Some((start, block)) = self.host_block(usize::try_from(address).ok()?) {
            return Some(Pointer {
                device: block.is_managed,
                host: !block.is_managed,
                is_managed: block.is_managed,
                is_mapped: block.is_mapped,
                ordinal: self.device_of(block.context).unwrap_or(0) as i32,
                address,
                context: block.context.number(),
                start: start as u64,
                bytes: block.bytes as u64,
                pool: 0,
            });
        }
        let found = self.memory.find(address).filter(|found| found.live)?;
        let owner = self.owners.get(&found.base);
        let device = owner.and_then(|owner| self.device_of(owner.context).ok());
        Some(Pointer {
            device: true,
            host: false,
            is_managed: false,
            is_mapped: true,
            ordinal: device.unwrap_or(0) as i32,
            address,
            context: owner.map_or(0, |owner| owner.context.number()),
            start: found.base,
            bytes: found.len,
            pool: owner.and_then(|owner| owner.pool).map_or(0, Handle::number),
        })
    }
}

impl Pointer {
    /// Writes one attribute, as wide as the API documents it. Unknown pointers get zeros.
    fn attribute(&self, attribute: u32, value: HostOut) -> Result<(), Status> {
        const HOST: u32 = 1;
        const DEVICE: u32 = 2;
        const READ_WRITE: u64 = 3;
        let known = self.device || self.host;
        match attribute {
            1 => value.set(self.context),
            2 if self.device => value.set(DEVICE),
            2 if self.host => value.set(HOST),
            2 => value.set(0_u32),
            // The host has no address for memory of a device; where both have one, it is the same.
            3 if self.is_mapped => value.set(self.address),
            4 if self.host || self.is_managed => value.set(self.address),
            3 | 4 if known => Err(Status::INVALID_VALUE),
            3 | 4 => value.set(std::ptr::null::<c_void>()),
            SYNC_MEMOPS => value.set(u8::from(self.device)),
            7 | 11 => value.set(self.start),
            8 => value.set(u8::from(self.is_managed)),
            // Open to other processes, in a GPU's reach for other devices.
            10 | 15 => value.set(0_u8),
            9 => value.set(if known { self.ordinal } else { -2 }),
            12 => value.set(self.bytes),
            13 => value.set(u8::from(self.is_mapped)),
            14 => value.set(0_u64),
            16 if self.is_mapped => value.set(READ_WRITE),
            16 => value.set(0_u64),
            17 => value.set(self.pool),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}
