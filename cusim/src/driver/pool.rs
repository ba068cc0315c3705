//! Memory pools. Memory goes back to the device when it is freed, so a pool is a count of what is in
//! use and a place to keep attributes.

use super::abi::{HostOut, In, Out, driver_api};
use super::handle::{Handle, Object};
use super::state::lock;
use super::status::Status;

/// A pool.
pub(crate) struct Pool {
    /// Following events, opportunistic, internal dependencies.
    reuse: [i32; 3],
    release_threshold: u64,
    pub(super) used: u64,
    pub(super) used_high: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            reuse: [1; 3],
            release_threshold: 0,
            used: 0,
            used_high: 0,
        }
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
const READ_WRITE: u32 = 3;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    kind: u32,
    id: i32,
}

/// The only place there is.
const DEVICE: Location = Location {
    kind: ON_DEVICE,
    id: 0,
};

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
        state.check_device(device)?;
        out.set(state.default_pool)
    }

    fn cuDeviceGetMemPool(out: Out<Handle<Pool>>, device: i32) {
        let state = lock()?;
        state.check_device(device)?;
        out.set(state.current_pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle<Pool>) {
        let mut state = lock()?;
        state.check_device(device)?;
        state.pools.get(pool)?;
        state.current_pool = pool;
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
        state.check_device(properties.place_id)?;
        let pool = state.pools.insert(Pool::default());
        out.set(pool)
    }

    fn cuMemPoolDestroy(pool: Handle<Pool>) {
        let mut state = lock()?;
        if pool == state.default_pool {
            return Err(Status::INVALID_VALUE);
        }
        state.pools.remove(pool)?;
        if state.current_pool == pool {
            state.current_pool = state.default_pool;
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
        lock()?.pools.get(pool)?;
        if location.get()? != DEVICE {
            return Err(Status::INVALID_DEVICE);
        }
        flags.set(READ_WRITE)
    }

    fn cuMemPoolSetAccess(pool: Handle<Pool>, accesses: In<Access>, count: usize) {
        lock()?.pools.get(pool)?;
        for index in 0..count {
            let access = accesses.at(index)?;
            if access.location != DEVICE {
                return Err(Status::INVALID_DEVICE);
            }
            // A pool cannot be closed to the device it is on.
            if access.flags != READ_WRITE {
                return Err(Status::INVALID_VALUE);
            }
        }
        Ok(())
    }
}
