//! Memory of the device, and what can be asked about a pointer.

use std::ffi::c_void;

use super::abi::{HostOut, In, Out, driver_api};
use super::handle::Handle;
use super::pool::Pool;
use super::state::{Owner, State, lock};
use super::status::Status;
use super::stream::Stream;
use crate::memory::MemoryError;

/// Rows of `cuMemAllocPitch` start at multiples of this.
const PITCH: usize = 512;

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
        let address = self
            .memory
            .alloc(bytes as u64, call)
            .map_err(|error| State::explain(call, &error))?;
        self.owners.insert(address, owner);
        if let Some(pool) = owner.pool.and_then(|pool| self.pools.get_mut(pool).ok()) {
            pool.used += bytes as u64;
            pool.used_high = pool.used_high.max(pool.used);
        }
        Ok(address)
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

fn allocate(call: &str, out: Out<u64>, bytes: usize) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.healthy()?;
    let owner = Owner {
        context,
        pool: None,
    };
    let address = state.allocate(call, bytes, owner)?;
    out.set(address)
}

fn allocate_in_stream(
    call: &str,
    out: Out<u64>,
    bytes: usize,
    pool: Option<Handle<Pool>>,
    stream: Handle<Stream>,
) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.working_stream(stream)?;
    let pool = pool.unwrap_or(state.current_pool);
    state.pools.get(pool)?;
    let owner = Owner {
        context,
        pool: Some(pool),
    };
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
        // It waits for all that may still use the memory.
        state.timeline.synchronize_all();
        state.begin("cuMemFree", Handle::NULL)?;
        state.release("cuMemFree", address)?;
        healthy.map(|_| ())
    }

    fn cuMemFreeAsync(address: u64, stream: Handle<Stream>) {
        let mut state = lock()?;
        let context = state.stream_context(stream)?;
        state.begin("cuMemFreeAsync", stream)?;
        state.release("cuMemFreeAsync", address)?;
        state.check_health(context)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let state = lock()?;
        state.healthy()?;
        free.set((state.memory.capacity() - state.memory.in_use()) as usize)?;
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
    address: u64,
    context: u64,
    start: u64,
    bytes: u64,
    pool: u64,
}

impl State {
    fn pointer(&self, address: u64) -> Option<Pointer> {
        if let Some(found) = self.memory.find(address).filter(|found| found.live) {
            let owner = self.owners.get(&found.base);
            return Some(Pointer {
                device: true,
                host: false,
                address,
                context: owner.map_or(0, |owner| owner.context.number()),
                start: found.base,
                bytes: found.len,
                pool: owner.and_then(|owner| owner.pool).map_or(0, Handle::number),
            });
        }
        let (start, block) = self.host_block(usize::try_from(address).ok()?)?;
        Some(Pointer {
            device: false,
            host: true,
            address,
            context: block.context.number(),
            start: start as u64,
            bytes: block.bytes as u64,
            pool: 0,
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
            // The device has no address for memory of the host, nor the host for that of the device.
            3 if self.device => value.set(self.address),
            4 if self.host => value.set(self.address),
            3 | 4 if known => Err(Status::INVALID_VALUE),
            3 | 4 => value.set(std::ptr::null::<c_void>()),
            SYNC_MEMOPS => value.set(u8::from(self.device)),
            7 | 11 => value.set(self.start),
            // Managed, open to other processes, in a GPU's reach for other devices.
            8 | 10 | 15 => value.set(0_u8),
            9 => value.set(if known { 0_i32 } else { -2 }),
            12 => value.set(self.bytes),
            13 => value.set(u8::from(self.device)),
            14 => value.set(0_u64),
            16 if self.device => value.set(READ_WRITE),
            16 => value.set(0_u64),
            17 => value.set(self.pool),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}
