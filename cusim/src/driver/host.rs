//! Memory of the host that the driver allocates or is told of. Pinning means nothing here; the driver
//! keeps account so that misuse fails as it does on a GPU. Kernels cannot reach it: device addresses
//! are never addresses of the host.

use std::ffi::c_void;

use super::abi::{HostOut, Out, driver_api};
use super::context::Context;
use super::handle::Handle;
use super::state::lock;
use super::status::Status;
use super::stubs::not_supported;

const PAGE: usize = 4096;

/// As aligned as programs expect pinned memory to be.
#[repr(align(4096))]
struct Page(#[expect(dead_code, reason = "room for the program's bytes")] [u8; PAGE]);

/// A block of host memory.
pub(super) struct HostBlock {
    pub(super) context: Handle<Context>,
    pub(super) bytes: usize,
    flags: u32,
    /// Capacity only; what it holds is the program's. Registered memory belongs to the program.
    owned: Option<Vec<Page>>,
}

/// Portable, mapped, write-combined.
const ALLOC_FLAGS: u32 = 7;
/// Portable, mapped, of a device, read-only.
const REGISTER_FLAGS: u32 = 15;

fn allocate(out: Out<*mut c_void>, bytes: usize, flags: u32) -> Result<(), Status> {
    let out = out.required()?;
    let mut state = lock()?;
    let context = state.healthy()?;
    if bytes == 0 || flags & !ALLOC_FLAGS != 0 {
        return Err(Status::INVALID_VALUE);
    }
    let mut pages: Vec<Page> = Vec::new();
    pages
        .try_reserve_exact(bytes.div_ceil(PAGE))
        .map_err(|_| Status::OUT_OF_MEMORY)?;
    let address = pages.as_mut_ptr().expose_provenance();
    state.host.insert(
        address,
        HostBlock {
            context,
            bytes,
            flags,
            owned: Some(pages),
        },
    );
    out.set(std::ptr::with_exposed_provenance_mut(address))
}

driver_api! {
    fn cuMemHostAlloc(out: Out<*mut c_void>, bytes: usize, flags: u32) {
        allocate(out, bytes, flags)
    }

    fn cuMemAllocHost_v2(out: Out<*mut c_void>, bytes: usize) {
        allocate(out, bytes, 0)
    }

    fn cuMemFreeHost(pointer: HostOut) {
        let mut state = lock()?;
        match state.host.get(&pointer.address()) {
            Some(block) if block.owned.is_some() => {
                state.host.remove(&pointer.address());
                Ok(())
            }
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemHostRegister_v2(pointer: HostOut, bytes: usize, flags: u32) {
        let mut state = lock()?;
        let context = state.healthy()?;
        let start = pointer.address();
        let end = start.checked_add(bytes).ok_or(Status::INVALID_VALUE)?;
        if start == 0 || bytes == 0 || flags & !REGISTER_FLAGS != 0 {
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
        state.host.insert(start, HostBlock { context, bytes, flags, owned: None });
        Ok(())
    }

    fn cuMemHostUnregister(pointer: HostOut) {
        let mut state = lock()?;
        match state.host.get(&pointer.address()) {
            Some(block) if block.owned.is_none() => {
                state.host.remove(&pointer.address());
                Ok(())
            }
            Some(_) => Err(Status::INVALID_VALUE),
            None => Err(Status::HOST_MEMORY_NOT_REGISTERED),
        }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: HostOut) {
        let state = lock()?;
        let block = state.host_block(pointer.address()).ok_or(Status::INVALID_VALUE)?;
        flags.set(block.1.flags)
    }

    fn cuMemHostGetDevicePointer_v2(_out: Out<u64>, _pointer: HostOut, _flags: u32) {
        not_supported("cuMemHostGetDevicePointer (kernels cannot reach memory of the host)")
    }

    fn cuMemAllocManaged(_out: Out<u64>, _bytes: usize, _flags: u32) {
        not_supported("cuMemAllocManaged (memory is either the host's or the device's)")
    }
}

impl super::state::State {
    /// The block of host memory an address lies in, with its start.
    pub(super) fn host_block(&self, address: usize) -> Option<(usize, &HostBlock)> {
        let (&start, block) = self.host.range(..=address).next_back()?;
        (address - start < block.bytes).then_some((start, block))
    }
}
