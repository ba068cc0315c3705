//! Several devices: which of them reach the memory of which.

use super::abi::{Out, driver_api};
use super::context::Context;
use super::handle::Handle;
use super::state::{State, lock};
use super::status::Status;
use crate::memory::Home;

/// `CUdevice_P2PAttribute`: performance rank, access, atomic operations, access to arrays.
const RANK: u32 = 1;
const ACCESS: u32 = 2;
const ATOMICS: u32 = 3;
const ARRAYS: u32 = 4;

impl State {
    /// Lets kernels of a context reach the memory that is open to it: that of its own device and the host, allocations
    /// of contexts it was given access to, and pools that are open to its device.
    pub(super) fn open_memory(&mut self, context: Handle<Context>) -> Result<(), Status> {
        if self.devices.len() == 1 {
            return Ok(());
        }
        let found = self.contexts.get(context)?;
        let (owners, pools) = (&self.owners, &self.pools);
        self.memory.open(|base, home| match home {
            Home::Host => true,
            Home::Device(device) if device == found.device => true,
            Home::Device(_) => owners.get(&base).is_some_and(|owner| match owner.pool {
                Some(pool) => pools
                    .get(pool)
                    .is_ok_and(|pool| pool.is_open_to(found.device)),
                None => found.peers.contains(&owner.context),
            }),
        });
        Ok(())
    }

    /// The number of a device, as an index.
    pub(super) fn device(&self, number: i32) -> Result<usize, Status> {
        let index = usize::try_from(number).map_err(|_| Status::INVALID_DEVICE)?;
        if index < self.devices.len() {
            Ok(index)
        } else {
            Err(Status::INVALID_DEVICE)
        }
    }

    pub(super) fn check_device(&self, number: i32) -> Result<(), Status> {
        self.device(number).map(|_| ())
    }

    /// The device of a context.
    pub(super) fn device_of(&self, context: Handle<Context>) -> Result<usize, Status> {
        Ok(self.contexts.get(context)?.device)
    }
}

driver_api! {
    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        let state = lock()?;
        let (device, peer) = (state.device(device)?, state.device(peer)?);
        // A device is no peer of itself.
        can.set(i32::from(device != peer))
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, attribute: u32, source: i32, destination: i32) {
        let state = lock()?;
        let (source, destination) = (state.device(source)?, state.device(destination)?);
        if source == destination {
            return Err(Status::INVALID_DEVICE);
        }
        value.set(match attribute {
            ACCESS | ATOMICS => 1,
            // No two devices are farther apart than two others, and there are no arrays.
            RANK | ARRAYS => 0,
            _ => return Err(Status::INVALID_VALUE),
        })
    }

    fn cuCtxEnablePeerAccess(peer: Handle<Context>, flags: u32) {
        let mut state = lock()?;
        let current = state.healthy()?;
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let device = state.device_of(peer)?;
        let context = state.contexts.get_mut(current)?;
        if device == context.device {
            return Err(Status::PEER_ACCESS_UNSUPPORTED);
        }
        if context.peers.insert(peer) {
            Ok(())
        } else {
            Err(Status::PEER_ACCESS_ALREADY_ENABLED)
        }
    }

    fn cuCtxDisablePeerAccess(peer: Handle<Context>) {
        let mut state = lock()?;
        let current = state.healthy()?;
        state.contexts.get(peer)?;
        if state.contexts.get_mut(current)?.peers.remove(&peer) {
            Ok(())
        } else {
            Err(Status::PEER_ACCESS_NOT_ENABLED)
        }
    }
}
