//! Copies between host and device, and fills. They are over when the call returns, also those that are
//! called asynchronous.

use super::abi::{HostIn, HostOut, In, driver_api};
use super::context::Context;
use super::handle::Handle;
use super::planes::{Copy2, Copy3};
use super::state::lock;
use super::status::Status;
use super::stream::Stream;
use super::transfer::{Fill, Place, Rows};
use super::work::{Order, Work, submit};

fn row(width: usize) -> Rows {
    rows(width, 1, 0)
}

fn rows(width: usize, height: usize, pitch: usize) -> Rows {
    Rows {
        width: width as u64,
        height: height as u64,
        pitch: pitch as u64,
    }
}

fn copy(
    call: &'static str,
    order: Order,
    bytes: usize,
    to: Place,
    from: Place,
) -> Result<(), Status> {
    submit(call, order, Work::Copy { to, from, bytes })
}

fn set(
    call: &'static str,
    order: Order,
    address: u64,
    pattern: &[u8],
    rows: Rows,
) -> Result<(), Status> {
    submit(call, order, Work::Fill(Fill::new(address, pattern, rows)?))
}

fn copy_planes(call: &'static str, order: Order, what: Copy3) -> Result<(), Status> {
    what.check()?;
    submit(call, order, Work::CopyPlanes(what))
}

fn to_device(
    call: &'static str,
    order: Order,
    to: u64,
    from: HostIn,
    bytes: usize,
) -> Result<(), Status> {
    let from = Place::Host(from.address() as u64);
    copy(call, order, bytes, Place::Device(to), from)
}

fn to_host(
    call: &'static str,
    order: Order,
    to: HostOut,
    from: u64,
    bytes: usize,
) -> Result<(), Status> {
    let to = Place::Host(to.address() as u64);
    copy(call, order, bytes, to, Place::Device(from))
}

fn on_device(
    call: &'static str,
    order: Order,
    to: u64,
    from: u64,
    bytes: usize,
) -> Result<(), Status> {
    copy(call, order, bytes, Place::Device(to), Place::Device(from))
}

fn unified(
    call: &'static str,
    order: Order,
    to: u64,
    from: u64,
    bytes: usize,
) -> Result<(), Status> {
    copy(call, order, bytes, Place::Either(to), Place::Either(from))
}

fn between(
    call: &'static str,
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
        copy_planes("cuMemcpy2D", Order::Now, what.get()?.deep())
    }

    fn cuMemcpy2DUnaligned_v2(what: In<Copy2>) {
        copy_planes("cuMemcpy2DUnaligned", Order::Now, what.get()?.deep())
    }

    fn cuMemcpy2DAsync_v2(what: In<Copy2>, stream: Handle<Stream>) {
        copy_planes("cuMemcpy2DAsync", Order::In(stream), what.get()?.deep())
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
