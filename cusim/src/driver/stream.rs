//! Streams. Work is done when it is issued, so a stream is always idle, in order, and after everything
//! that was issued before.

use std::ffi::c_void;

use super::abi::{HostFunction, Out, StreamCallback, call_back, call_back_stream, driver_api};
use super::context::Context;
use super::event::Event;
use super::handle::{Handle, Object};
use super::state::{State, lock};
use super::status::Status;

/// A stream.
pub(crate) struct Stream {
    pub(super) context: Handle<Context>,
    flags: u32,
    priority: i32,
}

impl Object for Stream {
    const TAG: u64 = 2;
    const WRONG: Status = Status::INVALID_HANDLE;
}

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;

const NON_BLOCKING: u32 = 1;
const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

/// `CU_STREAM_CAPTURE_STATUS_NONE`.
const NOT_CAPTURING: u32 = 0;

impl State {
    /// The context of a stream; the default streams are those of the current context.
    pub(super) fn stream_context(&self, stream: Handle<Stream>) -> Result<Handle<Context>, Status> {
        match stream.number() {
            0 | LEGACY | PER_THREAD => self.current(),
            _ => Ok(self.streams.get(stream)?.context),
        }
    }

    /// The context of a stream that is to do something.
    pub(super) fn working_stream(&self, stream: Handle<Stream>) -> Result<Handle<Context>, Status> {
        let context = self.stream_context(stream)?;
        self.check_health(context)?;
        Ok(context)
    }

    fn create_stream(&mut self, flags: u32, priority: i32) -> Result<Handle<Stream>, Status> {
        let context = self.healthy()?;
        if flags & !NON_BLOCKING != 0 {
            return Err(Status::INVALID_VALUE);
        }
        Ok(self.streams.insert(Stream {
            context,
            flags,
            priority: priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY),
        }))
    }
}

driver_api! {
    fn cuStreamCreate(out: Out<Handle<Stream>>, flags: u32) {
        let out = out.required()?;
        let stream = lock()?.create_stream(flags, LEAST_PRIORITY)?;
        out.set(stream)
    }

    fn cuStreamCreateWithPriority(out: Out<Handle<Stream>>, flags: u32, priority: i32) {
        let out = out.required()?;
        let stream = lock()?.create_stream(flags, priority)?;
        out.set(stream)
    }

    fn cuStreamDestroy_v2(stream: Handle<Stream>) {
        lock()?.streams.remove(stream).map(|_| ())
    }

    fn cuStreamQuery(stream: Handle<Stream>) {
        lock()?.working_stream(stream).map(|_| ())
    }

    fn cuStreamSynchronize(stream: Handle<Stream>) {
        lock()?.working_stream(stream).map(|_| ())
    }

    fn cuStreamWaitEvent(stream: Handle<Stream>, event: Handle<Event>, flags: u32) {
        let state = lock()?;
        state.working_stream(stream)?;
        state.events.get(event)?;
        // 1 is CU_EVENT_WAIT_EXTERNAL, which means something in a capture only.
        if flags > 1 { Err(Status::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuStreamGetCtx(stream: Handle<Stream>, out: Out<Handle<Context>>) {
        let context = lock()?.stream_context(stream)?;
        out.set(context)
    }

    fn cuStreamGetCtx_v2(stream: Handle<Stream>, out: Out<Handle<Context>>, green: Out<u64>) {
        let context = lock()?.stream_context(stream)?;
        green.set_if_wanted(0);
        out.set(context)
    }

    fn cuStreamGetDevice(stream: Handle<Stream>, device: Out<i32>) {
        lock()?.stream_context(stream)?;
        device.set(0)
    }

    fn cuStreamGetFlags(stream: Handle<Stream>, flags: Out<u32>) {
        let state = lock()?;
        state.stream_context(stream)?;
        flags.set(state.streams.get(stream).map_or(0, |stream| stream.flags))
    }

    fn cuStreamGetPriority(stream: Handle<Stream>, priority: Out<i32>) {
        let state = lock()?;
        state.stream_context(stream)?;
        priority.set(state.streams.get(stream).map_or(LEAST_PRIORITY, |stream| stream.priority))
    }

    fn cuStreamGetId(stream: Handle<Stream>, id: Out<u64>) {
        lock()?.stream_context(stream)?;
        id.set(stream.number())
    }

    fn cuStreamIsCapturing(stream: Handle<Stream>, status: Out<u32>) {
        lock()?.stream_context(stream)?;
        status.set(NOT_CAPTURING)
    }

    fn cuStreamGetCaptureInfo(stream: Handle<Stream>, status: Out<u32>, _id: Out<u64>) {
        lock()?.stream_context(stream)?;
        status.set(NOT_CAPTURING)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle<Stream>,
        status: Out<u32>,
        _id: Out<u64>,
        _graph: Out<u64>,
        _dependencies: Out<u64>,
        _count: Out<usize>,
    ) {
        lock()?.stream_context(stream)?;
        status.set(NOT_CAPTURING)
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle<Stream>,
        status: Out<u32>,
        _id: Out<u64>,
        _graph: Out<u64>,
        _dependencies: Out<u64>,
        _edges: Out<u64>,
        _count: Out<usize>,
    ) {
        lock()?.stream_context(stream)?;
        status.set(NOT_CAPTURING)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        // Without captures no call is ever refused because of one, which is the relaxed mode.
        mode.set(2)
    }

    fn cuStreamAddCallback(stream: Handle<Stream>, callback: StreamCallback, data: *mut c_void, flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        // Not under the lock: the function may take as long as it likes.
        let state = lock()?;
        let context = state.stream_context(stream)?;
        let status = state.check_health(context).err().unwrap_or(Status::SUCCESS);
        drop(state);
        call_back_stream(callback, stream.number(), status, data)
    }

    fn cuLaunchHostFunc(stream: Handle<Stream>, function: HostFunction, data: *mut c_void) {
        // Not under the lock: the function may take as long as it likes.
        lock()?.working_stream(stream)?;
        call_back(function, data)
    }

    fn cuLaunchHostFunc_v2(stream: Handle<Stream>, function: HostFunction, data: *mut c_void, _mode: u32) {
        lock()?.working_stream(stream)?;
        call_back(function, data)
    }
}
