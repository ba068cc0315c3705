//! Memory pools. Memory goes back to the device when it is freed, so a pool is a count of what is in
//! use and a place to keep attributes.

use std::collections::BTreeSet;

use super::abi::{HostOut, In, Out, driver_api};
use super::handle::{Handle, Object};
use super::state::lock;
use super::status::Status;

/// A pool.
pub(crate) struct Pool {
    pub(super) device: usize,
    /// Other devices whose kernels may access its memory.
    open_to: BTreeSet<usize>,
    /// Following events, opportunistic, internal dependencies.
    reuse: [i32; 3],
    release_threshold: u64,
    pub(super) used: u64,
    pub(super) used_high: u64,
}

impl Pool {
    pub(super) fn new(device: usize) -> Self {
        Self {
            device,
            open_to: BTreeSet::new(),
            reuse: [1; 3],
            release_threshold: 0,
            used: 0,
            used_high: 0,
        }
    }

    pub(super) fn is_open_to(&self, device: usize) -> bool {
        self.device == device || self.open_to.contains(&device)
    }
}

impl Object for Pool {
    const TAG: u64 = 4;
    const WRONG: Status = Status::INVALID_VALUE;
}

/// The fixed part of `CUmemPoolProps`: kind of allocation, kinds of handles, kind and number of the place.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PoolProperties {
    allocation: u32,
    handles: u32,
    place: u32,
    place_id: i32,
}

const PINNED: u32 = 1;
const ON_DEVICE: u32 = 1;
const NO_ACCESS: u32 = 0;
const READ_WRITE: u32 = 3;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    kind: u32,
    id: i32,
}

const ON_HOST: u32 = 2;

impl Location {
    /// The number of a device, or -1 for the host.
    pub(super) fn place(self) -> Result<i32, Status> {
        match self.kind {
            ON_DEVICE => Ok(self.id),
            ON_HOST => Ok(-1),
            _ => Err(Status::INVALID_VALUE),
        }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Access {
    location: Location,
    flags: u32,
}

driver_api! {
    fn cuDeviceGetDefaultMemPool(out: Out<Handle<Pool>>, device: i32) {
        let state = lock()?;
        out.set(state.devices[state.device(device)?].default_pool)
    }

    fn cuDeviceGetMemPool(out: Out<Handle<Pool>>, device: i32) {
        let state = lock()?;
        out.set(state.devices[state.device(device)?].current_pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle<Pool>) {
        let mut state = lock()?;
        let device = state.device(device)?;
        if state.pools.get(pool)?.device != device {
            return Err(Status::INVALID_VALUE);
        }
        state.devices[device].current_pool = pool;
        Ok(())
    }

    fn cuMemPoolCreate(out: Out<Handle<Pool>>, properties: In<PoolProperties>) {
        let out = out.required()?;
        let properties = properties.get()?;
        let mut state = lock()?;
        if properties.handles != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        if (properties.allocation, properties.place) != (PINNED, ON_DEVICE) {
            return Err(Status::INVALID_VALUE);
        }
        let device = state.device(properties.place_id)?;
        let pool = state.pools.insert(Pool::new(device));
        out.set(pool)
    }

    fn cuMemPoolDestroy(pool: Handle<Pool>) {
        let mut state = lock()?;
        if state.devices.iter().any(|device| device.default_pool == pool) {
            return Err(Status::INVALID_VALUE);
        }
        state.pools.remove(pool)?;
        for device in state.devices.iter_mut().filter(|device| device.current_pool == pool) {
            device.current_pool = device.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle<Pool>, _keep: usize) {
        lock()?.pools.get(pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle<Pool>, attribute: u32, value: HostOut) {
        let state = lock()?;
        let pool = state.pools.get(pool)?;
        match attribute {
            1..=3 => value.set(pool.reuse[attribute as usize - 1]),
            4 => value.set(pool.release_threshold),
            // Nothing is reserved beyond what is used.
            5 | 7 => value.set(pool.used),
            6 | 8 => value.set(pool.used_high),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle<Pool>, attribute: u32, value: HostOut) {
        let mut state = lock()?;
        let pool = state.pools.get_mut(pool)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1] = value.get()?,
            4 => pool.release_threshold = value.get()?,
            // The high-water marks can be set back to what is in use.
            6 | 8 if value.get::<u64>()? == 0 => pool.used_high = pool.used,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle<Pool>, location: In<Location>) {
        let state = lock()?;
        let pool = state.pools.get(pool)?;
        let device = state.device(location.get()?.place()?)?;
        flags.set(if pool.is_open_to(device) { READ_WRITE } else { NO_ACCESS })
    }

    fn cuMemPoolSetAccess(pool: Handle<Pool>, accesses: In<Access>, count: usize) {
        let mut state = lock()?;
        for index in 0..count {
            let access = accesses.at(index)?;
            let device = state.device(access.location.place()?)?;
            let pool = state.pools.get_mut(pool)?;
            match access.flags {
                READ_WRITE => pool.open_to.insert(device),
                // A pool cannot be closed to the device it is on.
                NO_ACCESS if pool.device != device => pool.open_to.remove(&device),
                _ => return Err(Status::INVALID_VALUE),
            };
        }
        state.pools.get(pool).map(|_| ())
    }
}
