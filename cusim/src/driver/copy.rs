//! Copies between host and device, and fills. They are over when the call returns, also those that are
//! called asynchronous.

use super::abi::{HostIn, HostOut, In, driver_api, host_copy, host_in, host_out};
use super::context::Context;
use super::handle::Handle;
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::stubs::not_supported;
use crate::memory::GLOBAL_BASE;

/// Where an address of the unified address space is the device's. Programs, their heaps and their
/// mappings lie below or far above on every 64-bit Linux.
const DEVICE_ADDRESSES: std::ops::Range<u64> = GLOBAL_BASE..1 << 44;

/// Bytes somewhere.
#[derive(Clone, Copy)]
enum Place {
    Host(u64),
    Device(u64),
}

impl Place {
    /// Which memory an address of the unified address space is in.
    fn of(address: u64) -> Self {
        if DEVICE_ADDRESSES.contains(&address) {
            Place::Device(address)
        } else {
            Place::Host(address)
        }
    }

    fn offset(self, by: u64) -> Option<Self> {
        Some(match self {
            Place::Host(address) => Place::Host(address.checked_add(by)?),
            Place::Device(address) => Place::Device(address.checked_add(by)?),
        })
    }
}

impl State {
    fn transfer(&mut self, call: &str, to: Place, from: Place, bytes: usize) -> Result<(), Status> {
        let memory = &mut self.memory;
        let done = match (to, from) {
            (Place::Host(to), Place::Host(from)) => {
                return host_copy(host_out(to), host_in(from), bytes);
            }
            (Place::Host(to), Place::Device(from)) => memory.read(from, host_out(to).bytes(bytes)?),
            (Place::Device(to), Place::Host(from)) => memory.write(to, host_in(from).bytes(bytes)?),
            (Place::Device(to), Place::Device(from)) => memory.copy(to, from, bytes as u64),
        };
        done.map_err(|error| State::explain(call, &error))
    }

    fn fill(&mut self, call: &str, address: u64, pattern: &[u8], rows: Rows) -> Result<(), Status> {
        let size = pattern.len() as u64;
        if !address.is_multiple_of(size) || rows.height > 1 && !rows.pitch.is_multiple_of(size) {
            return Err(Status::INVALID_VALUE);
        }
        for row in 0..rows.height {
            let start = row
                .checked_mul(rows.pitch)
                .and_then(|offset| address.checked_add(offset))
                .ok_or(Status::INVALID_VALUE)?;
            self.memory
                .fill(start, pattern, rows.width)
                .map_err(|error| State::explain(call, &error))?;
        }
        Ok(())
    }
}

/// What of each row to fill: so many elements, rows `pitch` bytes apart.
#[derive(Clone, Copy)]
struct Rows {
    width: u64,
    height: u64,
    pitch: u64,
}

fn row(width: usize) -> Rows {
    Rows {
        width: width as u64,
        height: 1,
        pitch: 0,
    }
}

fn rows(width: usize, height: usize, pitch: usize) -> Rows {
    Rows {
        width: width as u64,
        height: height as u64,
        pitch: pitch as u64,
    }
}

/// When a call does its work.
#[derive(Clone, Copy)]
enum Order {
    /// In the current context.
    Now,
    /// In a stream.
    In(Handle<Stream>),
}

fn copy(call: &str, order: Order, bytes: usize, to: Place, from: Place) -> Result<(), Status> {
    let mut state = ready(call, order)?;
    if bytes != 0 {
        state.transfer(call, to, from, bytes)?;
    }
    state.copied(order, to)
}

fn set(call: &str, order: Order, address: u64, pattern: &[u8], rows: Rows) -> Result<(), Status> {
    ready(call, order)?.fill(call, address, pattern, rows)
}

/// The state, in an operation of its own.
fn ready(call: &str, order: Order) -> Result<std::sync::MutexGuard<'static, State>, Status> {
    let mut state = lock()?;
    match order {
        Order::Now => state.healthy()?,
        Order::In(stream) => state.working_stream(stream)?,
    };
    state.begin(call, order.stream())?;
    Ok(state)
}

impl Order {
    /// Calls that name no stream work in the default one.
    fn stream(self) -> Handle<Stream> {
        match self {
            Self::Now => Handle::NULL,
            Self::In(stream) => stream,
        }
    }
}

impl State {
    /// A copy was issued. The host waits for one that names no stream, and for one to memory of its own that is not
    /// pinned (CUDA Driver API, "API synchronization behavior").
    fn copied(&mut self, order: Order, to: Place) -> Result<(), Status> {
        let is_pageable = match to {
            Place::Host(address) => {
                usize::try_from(address).is_ok_and(|address| self.host_block(address).is_none())
            }
            Place::Device(_) => false,
        };
        if matches!(order, Order::Now) || is_pageable {
            self.waited_for(order.stream())?;
        }
        Ok(())
    }
}

/// One side of a copy of rows.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side2 {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copy2 {
    from: Side2,
    to: Side2,
    width: usize,
    height: usize,
}

/// One side of a copy of planes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Side3 {
    x: usize,
    y: usize,
    z: usize,
    level: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copy3 {
    from: Side3,
    to: Side3,
    width: usize,
    height: usize,
    depth: usize,
}

impl Side2 {
    fn deep(self) -> Side3 {
        Side3 {
            x: self.x,
            y: self.y,
            z: 0,
            level: 0,
            kind: self.kind,
            host: self.host,
            device: self.device,
            array: self.array,
            reserved: 0,
            pitch: self.pitch,
            height: 0,
        }
    }
}

impl Side3 {
    fn place(&self) -> Result<Place, Status> {
        match self.kind {
            1 => Ok(Place::Host(self.host)),
            2 => Ok(Place::Device(self.device)),
            3 => not_supported("copying from and to arrays").map(|()| Place::Host(0)),
            4 => Ok(Place::of(self.device)),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Bytes from the start of the side to a row of the copy.
    fn offset(&self, row: usize, plane: usize) -> Option<u64> {
        let rows = self.z.checked_add(plane)?.checked_mul(self.height)?;
        let rows = rows.checked_add(self.y)?.checked_add(row)?;
        let bytes = rows.checked_mul(self.pitch)?.checked_add(self.x)?;
        Some(bytes as u64)
    }

    fn fits(&self, width: usize, height: usize, depth: usize) -> bool {
        let row = self.x.checked_add(width);
        let column = self.y.checked_add(height);
        let rows = self.y + height > 1 || self.z + depth > 1;
        let planes = self.z + depth > 1;
        row.is_some_and(|row| !rows || row <= self.pitch)
            && column.is_some_and(|column| !planes || column <= self.height)
    }
}

fn copy_planes(call: &str, order: Order, what: Copy3) -> Result<(), Status> {
    let mut state = ready(call, order)?;
    let Copy3 {
        from,
        to,
        width,
        height,
        depth,
    } = what;
    if width == 0 || height == 0 || depth == 0 {
        return Ok(());
    }
    if !from.fits(width, height, depth) || !to.fits(width, height, depth) {
        return Err(Status::INVALID_VALUE);
    }
    let (source, destination) = (from.place()?, to.place()?);
    for plane in 0..depth {
        for row in 0..height {
            let at = |side: &Side3, start: Place| {
                side.offset(row, plane)
                    .and_then(|offset| start.offset(offset))
                    .ok_or(Status::INVALID_VALUE)
            };
            let (to, from) = (at(&to, destination)?, at(&from, source)?);
            state.transfer(call, to, from, width)?;
        }
    }
    state.copied(order, destination)
}

fn copy_rows(call: &str, order: Order, what: In<Copy2>) -> Result<(), Status> {
    let what = what.get()?;
    copy_planes(
        call,
        order,
        Copy3 {
            from: what.from.deep(),
            to: what.to.deep(),
            width: what.width,
            height: what.height,
            depth: 1,
        },
    )
}

fn to_device(call: &str, order: Order, to: u64, from: HostIn, bytes: usize) -> Result<(), Status> {
    let from = Place::Host(from.address() as u64);
    copy(call, order, bytes, Place::Device(to), from)
}

fn to_host(call: &str, order: Order, to: HostOut, from: u64, bytes: usize) -> Result<(), Status> {
    let to = Place::Host(to.address() as u64);
    copy(call, order, bytes, to, Place::Device(from))
}

fn on_device(call: &str, order: Order, to: u64, from: u64, bytes: usize) -> Result<(), Status> {
    copy(call, order, bytes, Place::Device(to), Place::Device(from))
}

fn unified(call: &str, order: Order, to: u64, from: u64, bytes: usize) -> Result<(), Status> {
    copy(call, order, bytes, Place::of(to), Place::of(from))
}

fn between(
    call: &str,
    order: Order,
    to: (u64, Handle<Context>),
    from: (u64, Handle<Context>),
    bytes: usize,
) -> Result<(), Status> {
    for context in [to.1, from.1] {
        lock()?.check_health(context)?;
    }
    on_device(call, order, to.0, from.0, bytes)
}

driver_api! {
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        unified("cuMemcpy", Order::Now, to, from, bytes)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle<Stream>) {
        unified("cuMemcpyAsync", Order::In(stream), to, from, bytes)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: HostIn, bytes: usize) {
        to_device("cuMemcpyHtoD", Order::Now, to, from, bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: HostIn, bytes: usize, stream: Handle<Stream>) {
        to_device("cuMemcpyHtoDAsync", Order::In(stream), to, from, bytes)
    }

    fn cuMemcpyDtoH_v2(to: HostOut, from: u64, bytes: usize) {
        to_host("cuMemcpyDtoH", Order::Now, to, from, bytes)
    }

    fn cuMemcpyDtoHAsync_v2(to: HostOut, from: u64, bytes: usize, stream: Handle<Stream>) {
        to_host("cuMemcpyDtoHAsync", Order::In(stream), to, from, bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        on_device("cuMemcpyDtoD", Order::Now, to, from, bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle<Stream>) {
        on_device("cuMemcpyDtoDAsync", Order::In(stream), to, from, bytes)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle<Context>, from: u64, from_context: Handle<Context>, bytes: usize) {
        between("cuMemcpyPeer", Order::Now, (to, to_context), (from, from_context), bytes)
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Handle<Context>,
        from: u64,
        from_context: Handle<Context>,
        bytes: usize,
        stream: Handle<Stream>,
    ) {
        between("cuMemcpyPeerAsync", Order::In(stream), (to, to_context), (from, from_context), bytes)
    }

    fn cuMemcpy2D_v2(what: In<Copy2>) {
        copy_rows("cuMemcpy2D", Order::Now, what)
    }

    fn cuMemcpy2DUnaligned_v2(what: In<Copy2>) {
        copy_rows("cuMemcpy2DUnaligned", Order::Now, what)
    }

    fn cuMemcpy2DAsync_v2(what: In<Copy2>, stream: Handle<Stream>) {
        copy_rows("cuMemcpy2DAsync", Order::In(stream), what)
    }

    fn cuMemcpy3D_v2(what: In<Copy3>) {
        copy_planes("cuMemcpy3D", Order::Now, what.get()?)
    }

    fn cuMemcpy3DAsync_v2(what: In<Copy3>, stream: Handle<Stream>) {
        copy_planes("cuMemcpy3DAsync", Order::In(stream), what.get()?)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        set("cuMemsetD8", Order::Now, to, &[value], row(count))
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle<Stream>) {
        set("cuMemsetD8Async", Order::In(stream), to, &[value], row(count))
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        set("cuMemsetD16", Order::Now, to, &value.to_le_bytes(), row(count))
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle<Stream>) {
        set("cuMemsetD16Async", Order::In(stream), to, &value.to_le_bytes(), row(count))
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        set("cuMemsetD32", Order::Now, to, &value.to_le_bytes(), row(count))
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle<Stream>) {
        set("cuMemsetD32Async", Order::In(stream), to, &value.to_le_bytes(), row(count))
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        set("cuMemsetD2D8", Order::Now, to, &[value], rows(width, height, pitch))
    }

    fn cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle<Stream>) {
        set("cuMemsetD2D8Async", Order::In(stream), to, &[value], rows(width, height, pitch))
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        set("cuMemsetD2D16", Order::Now, to, &value.to_le_bytes(), rows(width, height, pitch))
    }

    fn cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle<Stream>) {
        set("cuMemsetD2D16Async", Order::In(stream), to, &value.to_le_bytes(), rows(width, height, pitch))
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        set("cuMemsetD2D32", Order::Now, to, &value.to_le_bytes(), rows(width, height, pitch))
    }

    fn cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle<Stream>) {
        set("cuMemsetD2D32Async", Order::In(stream), to, &value.to_le_bytes(), rows(width, height, pitch))
    }
}
