//! Device memory: allocating, freeing, asking.

use super::abi::{Out, driver_api};
use super::handle::Handle;
use super::pool::Pool;
use super::state::{Owner, State, lock};
use super::status::Status;
use super::stream::Stream;
use crate::memory::MemoryError;

/// Addresses of memory, as the driver API passes them.
pub(super) type DevicePointer = u64;

/// What `call` returns for an error of the memory. All but exhaustion are bugs of the program, so the
/// sentence that explains them is worth saying.
pub(super) fn memory_status(call: &str, error: &MemoryError) -> Status {
    match error {
        MemoryError::OutOfMemory { .. } => Status::OUT_OF_MEMORY,
        MemoryError::ZeroSize => Status::INVALID_VALUE,
        _ => {
            eprintln!("cusim: {call}: {error}");
            Status::INVALID_VALUE
        }
    }
}

impl State {
    fn allocate(
        &mut self,
        call: &str,
        bytes: usize,
        owner: Owner,
    ) -> Result<DevicePointer, Status> {
        let address = self
            .memory
            .alloc(bytes as u64, call)
            .map_err(|error| memory_status(call, &error))?;
        self.owners.insert(address, owner);
        if let Some(pool) = owner.pool {
            let pool = self.pools.get_mut(pool)?;
            pool.used += bytes as u64;
            pool.used_high = pool.used_high.max(pool.used);
        }
        Ok(address)
    }

    fn allocate_from_pool(
        &mut self,
        call: &str,
        bytes: usize,
        pool: Handle<Pool>,
        stream: Handle<Stream>,
    ) -> Result<DevicePointer, Status> {
        let context = self.working_stream(stream)?;
        self.pools.get(pool)?;
        let pool = Some(pool);
        self.allocate(call, bytes, Owner { context, pool })
    }

    /// Frees what programs allocated; the variables of a module go with their module.
    fn free(&mut self, call: &str, address: DevicePointer) -> Result<(), Status> {
        let bytes = self.memory.find(address).map_or(0, |found| found.len);
        let owner = self.owners.get(&address).copied();
        if owner.is_none() && self.memory.find(address).is_some_and(|found| found.live) {
            eprintln!("cusim: {call}: {address:#x} is not the start of an allocation");
            return Err(Status::INVALID_VALUE);
        }
        self.memory
            .free(address)
            .map_err(|error| memory_status(call, &error))?;
        self.owners.remove(&address);
        if let Some(pool) = owner.and_then(|owner| owner.pool)
            && let Ok(pool) = self.pools.get_mut(pool)
        {
            pool.used = pool.used.saturating_sub(bytes);
        }
        Ok(())
    }
}

driver_api! {
    fn cuMemAlloc_v2(out: Out<DevicePointer>, bytes: usize) {
        let out = out.required()?;
        let mut state = lock()?;
        let context = state.healthy()?;
        let address = state.allocate("cuMemAlloc", bytes, Owner { context, pool: None })?;
        out.set(address)
    }

    fn cuMemAllocPitch_v2(
        out: Out<DevicePointer>,
        pitch: Out<usize>,
        width: usize,
        height: usize,
        element: u32,
    ) {
        let (out, pitch) = (out.required()?, pitch.required()?);
        let mut state = lock()?;
        let context = state.healthy()?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(Status::INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Status::OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(Status::OUT_OF_MEMORY)?;
        let address = state.allocate("cuMemAllocPitch", bytes, Owner { context, pool: None })?;
        pitch.set(row)?;
        out.set(address)
    }

    fn cuMemAllocAsync(out: Out<DevicePointer>, bytes: usize, stream: Handle<Stream>) {
        let out = out.required()?;
        let mut state = lock()?;
        let pool = state.current_pool;
        let address = state.allocate_from_pool("cuMemAllocAsync", bytes, pool, stream)?;
        out.set(address)
    }

    fn cuMemAllocFromPoolAsync(
        out: Out<DevicePointer>,
        bytes: usize,
        pool: Handle<Pool>,
        stream: Handle<Stream>,
    ) {
        let out = out.required()?;
        let address =
            lock()?.allocate_from_pool("cuMemAllocFromPoolAsync", bytes, pool, stream)?;
        out.set(address)
    }

    fn cuMemFree_v2(address: DevicePointer) {
        lock()?.free("cuMemFree", address)
    }

    fn cuMemFreeAsync(address: DevicePointer, stream: Handle<Stream>) {
        let mut state = lock()?;
        state.stream_context(stream)?;
        state.free("cuMemFreeAsync", address)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let state = lock()?;
        state.healthy()?;
        let (used, capacity) = (state.memory.in_use(), state.memory.capacity());
        free.set_if_wanted(capacity.saturating_sub(used) as usize);
        total.set_if_wanted(capacity as usize);
        Ok(())
    }

    fn cuMemGetAddressRange_v2(base: Out<DevicePointer>, size: Out<usize>, address: DevicePointer) {
        let state = lock()?;
        state.current()?;
        let found = state.memory.find(address).filter(|found| found.live).ok_or(Status::NOT_FOUND)?;
        base.set_if_wanted(found.base);
        size.set_if_wanted(found.len as usize);
        Ok(())
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        let state = lock()?;
        state.check_device(device)?;
        bytes.set(state.memory.capacity() as usize)
    }
}

/// Bytes that rows of a pitched allocation are rounded up to.
const PITCH: usize = 512;
