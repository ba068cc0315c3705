//! The devices, whose properties are those of the modelled GPU.

use std::ffi::c_char;

use super::abi::{InStr, Out, driver_api};
use super::state::{State, lock};
use super::status::Status;
use crate::arch::Arch;

/// Highest number of a `CUdevice_attribute` that is known here; what is not set below is absent from
/// the modelled GPU, or is something cusim does not do, and is 0.
const LAST_ATTRIBUTE: u32 = 148;

/// Clocks and the width of the memory bus are nominal: nothing about time can be learnt here. They are not 0,
/// since programs divide by them.
const NOMINAL_KHZ: u32 = 1_000_000;
const NOMINAL_BUS_BITS: u32 = 256;

/// Where a device seems to be plugged in.
fn pci_bus_id(device: usize) -> String {
    format!("0000:{device:02X}:00.0")
}

fn attribute(arch: &Arch, attribute: u32) -> Result<u32, Status> {
    let (major, minor) = arch.capability();
    Ok(match attribute {
        1 => Arch::THREADS_PER_BLOCK,
        2..=4 => Arch::BLOCK_DIM[attribute as usize - 2],
        5..=7 => Arch::GRID_DIM[attribute as usize - 5],
        8 => Arch::SHARED_PER_BLOCK,
        9 => Arch::CONSTANT_BYTES,
        10 => Arch::WARP,
        11 => i32::MAX as u32,      // pitch
        12 | 82 => Arch::REGISTERS, // of a block, of a multiprocessor
        13 | 36 => NOMINAL_KHZ,
        14 => 512,              // alignment of textures
        15 | 31 | 41 | 40 => 1, // overlap, concurrent kernels, unified addressing, copy engines
        // Mapped host memory, managed memory, also while kernels run, host pointers of registered memory.
        19 | 83 | 89 | 91 => 1,
        16 => arch.multiprocessors,
        37 => NOMINAL_BUS_BITS,
        38 => arch.l2_cache,
        39 => arch.threads_per_multiprocessor,
        51 => 32, // alignment of a texture's pitch
        75 => major,
        76 => minor,
        78..=80 | 90 | 99 => 1, // stream priorities, L1 for both spaces, preemption, cuMemHostRegister
        81 => arch.shared_per_multiprocessor,
        87 => 2, // single to double precision
        95 => 1, // cooperative launches
        97 => arch.shared_per_block_optin,
        106 => arch.blocks_per_multiprocessor,
        111 => Arch::SHARED_RESERVED,
        115 => 1, // memory pools
        _ if (1..=LAST_ATTRIBUTE).contains(&attribute) => 0,
        _ => return Err(Status::INVALID_VALUE),
    })
}

/// Tells devices and their models apart; the same in every process.
fn uuid(arch: &Arch, device: i32) -> [u8; 16] {
    let mut uuid = *b"cusim-emulate000";
    uuid[13] = device as u8;
    uuid[14..].copy_from_slice(&(arch.sm as u16).to_be_bytes());
    uuid
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Properties {
    threads_per_block: i32,
    block_dim: [i32; 3],
    grid_dim: [i32; 3],
    shared_per_block: i32,
    constant_memory: i32,
    warp: i32,
    pitch: i32,
    registers: i32,
    clock_rate: i32,
    texture_align: i32,
}

fn on_device<R>(device: i32, read: impl FnOnce(&State) -> R) -> Result<R, Status> {
    let state = lock()?;
    state.check_device(device)?;
    Ok(read(&state))
}

driver_api! {
    fn cuDeviceGetCount(count: Out<i32>) {
        let found = lock()?.devices.len();
        count.set(found as i32)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        lock()?.check_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) {
        name.set_string(on_device(device, |state| state.arch.name)?, room)
    }

    fn cuDeviceGetUuid(out: Out<[u8; 16]>, device: i32) {
        out.set(on_device(device, |state| uuid(state.arch, device))?)
    }

    fn cuDeviceGetUuid_v2(out: Out<[u8; 16]>, device: i32) {
        out.set(on_device(device, |state| uuid(state.arch, device))?)
    }

    fn cuDeviceGetAttribute(value: Out<u32>, number: u32, device: i32) {
        value.set(on_device(device, |state| attribute(state.arch, number))??)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(on_device(device, |state| state.memory.capacity() as usize)?)
    }

    fn cuDeviceComputeCapability(major: Out<u32>, minor: Out<u32>, device: i32) {
        let capability = on_device(device, |state| state.arch.capability())?;
        major.set(capability.0)?;
        minor.set(capability.1)
    }

    fn cuDeviceGetProperties(out: Out<Properties>, device: i32) {
        on_device(device, |_| ())?;
        out.set(Properties {
            threads_per_block: Arch::THREADS_PER_BLOCK as i32,
            block_dim: Arch::BLOCK_DIM.map(|dim| dim as i32),
            grid_dim: Arch::GRID_DIM.map(|dim| dim as i32),
            shared_per_block: Arch::SHARED_PER_BLOCK as i32,
            constant_memory: Arch::CONSTANT_BYTES as i32,
            warp: Arch::WARP as i32,
            pitch: i32::MAX,
            registers: Arch::REGISTERS as i32,
            clock_rate: NOMINAL_KHZ as i32,
            texture_align: 512,
        })
    }

    fn cuDeviceGetPCIBusId(out: Out<c_char>, room: i32, device: i32) {
        on_device(device, |_| ())?;
        out.set_string(&pci_bus_id(device as usize), room)
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: InStr) {
        let state = lock()?;
        let id = id.get()?;
        // The domain and the function may be left out.
        let is_meant = |device: &usize| {
            let full = pci_bus_id(*device);
            [&full[..], &full[..10], &full[5..]].iter().any(|known| known.eq_ignore_ascii_case(id))
        };
        let found = (0..state.devices.len()).find(is_meant).ok_or(Status::INVALID_DEVICE)?;
        device.set(found as i32)
    }

    fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: u32, device: i32) {
        on_device(device, |_| ())?;
        supported.set(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_those_of_the_modelled_gpu() {
        let ampere = Arch::of(80).expect("sm_80 is modelled");
        assert_eq!(attribute(ampere, 16), Ok(108));
        assert_eq!(attribute(ampere, 95), Ok(1), "cooperative launches");
        assert_eq!(attribute(ampere, 97), Ok(163 * 1024));
        assert_eq!(attribute(ampere, 75), Ok(8));
        assert_eq!(attribute(ampere, 120), Ok(0), "no clusters");
        assert_eq!(attribute(ampere, 0), Err(Status::INVALID_VALUE));
        assert_eq!(attribute(ampere, 4096), Err(Status::INVALID_VALUE));
    }
}
