//! What the driver knows of an address.

use super::abi::{HostOut, In, driver_api};
use super::context::Context;
use super::handle::Handle;
use super::memory::DevicePointer;
use super::pool::Pool;
use super::state::{State, lock};
use super::status::Status;

const MEMORY_HOST: u32 = 1;
const MEMORY_DEVICE: u32 = 2;

/// Where an address is.
struct Place {
    start: u64,
    bytes: u64,
    memory: u32,
    context: Handle<Context>,
    pool: Handle<Pool>,
}

impl State {
    fn place(&self, address: DevicePointer) -> Option<Place> {
        if let Some(found) = self.memory.find(address).filter(|found| found.live) {
            let owner = self.owners.get(&found.base);
            return Some(Place {
                start: found.base,
                bytes: found.len,
                memory: MEMORY_DEVICE,
                context: owner.map_or(Handle::NULL, |owner| owner.context),
                pool: owner.and_then(|owner| owner.pool).unwrap_or(Handle::NULL),
            });
        }
        let (start, block) = self.host_block(usize::try_from(address).ok()?)?;
        Some(Place {
            start: start as u64,
            bytes: block.bytes as u64,
            memory: MEMORY_HOST,
            context: block.context,
            pool: Handle::NULL,
        })
    }
}

/// Writes one attribute of an address.
fn answer(
    place: &Place,
    attribute: u32,
    address: DevicePointer,
    data: HostOut,
) -> Result<(), Status> {
    match attribute {
        1 => data.set(place.context),
        2 => data.set(place.memory),
        3 if place.memory == MEMORY_DEVICE => data.set(address),
        4 if place.memory == MEMORY_HOST => data.set(address),
        6 | 8 | 10 | 15 => data.set(0_u32),
        7 => data.set(place.start),
        9 => data.set(0_i32),
        11 => data.set(place.start),
        12 => data.set(place.bytes as usize),
        13 => data.set(1_u32),
        14 => data.set(0_u64),
        // Readable and writable.
        16 => data.set(3_u32),
        17 => data.set(place.pool),
        _ => Err(Status::INVALID_VALUE),
    }
}

driver_api! {
    fn cuPointerGetAttribute(data: HostOut, attribute: u32, address: DevicePointer) {
        let state = lock()?;
        state.current()?;
        let place = state.place(address).ok_or(Status::INVALID_VALUE)?;
        answer(&place, attribute, address, data)
    }

    fn cuPointerGetAttributes(
        count: u32,
        attributes: In<u32>,
        data: In<HostOut>,
        address: DevicePointer,
    ) {
        let state = lock()?;
        state.current()?;
        let place = state.place(address);
        for index in 0..count as usize {
            let (attribute, data) = (attributes.at(index)?, data.at(index)?);
            // An address of nobody is no error here: its attributes are null, and its memory of no type.
            match &place {
                Some(place) => match answer(place, attribute, address, data) {
                    // The other side of a unified pair is null.
                    Err(_) if matches!(attribute, 3 | 4) => data.set(0_u64)?,
                    answered => answered?,
                },
                None => clear(attribute, data)?,
            }
        }
        Ok(())
    }
}

/// Writes an attribute of an address nobody knows.
fn clear(attribute: u32, data: HostOut) -> Result<(), Status> {
    match attribute {
        1 | 3 | 4 | 7 | 11 | 12 | 14 | 17 => data.set(0_u64),
        2 | 6 | 8 | 10 | 13 | 15 | 16 => data.set(0_u32),
        // CU_DEVICE_INVALID
        9 => data.set(-2_i32),
        _ => Err(Status::INVALID_VALUE),
    }
}
