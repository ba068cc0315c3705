//! Streams. Work is done when it is issued, so a stream is always idle, in order, and after everything
//! that was issued before.

use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::abi::{HostFunction, Out, StreamCallback, call_back_stream, driver_api};
use super::context::Context;
use super::event::Event;
use super::handle::{Handle, Object};
use super::order::{Kind, Lane};
use super::state::{State, lock};
use super::status::Status;
use super::work::{Order, Work, submit};

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

/// A number for the calling thread, in bits that no handle has.
fn this_thread() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::thread::current().id().hash(&mut hasher);
    hasher.finish() << 32
}

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

    /// What orders a stream's work: a number of its own, and how it stands to the default stream of its context.
    pub(super) fn lane(&self, stream: Handle<Stream>) -> Result<Lane, Status> {
        let context = self.stream_context(stream)?.number();
        Ok(match stream.number() {
            // Numbers of objects leave these free.
            0 | LEGACY => (!context, Kind::Legacy(context)),
            PER_THREAD => (!context ^ this_thread(), Kind::Blocking(context)),
            number => {
                let flags = self.streams.get(stream)?.flags;
                let kind = if flags & NON_BLOCKING == 0 {
                    Kind::Blocking(context)
                } else {
                    Kind::NonBlocking
                };
                (number, kind)
            }
        })
    }

    /// Begins an operation of the host in a stream.
    pub(super) fn begin(&mut self, what: &str, (lane, kind): Lane) {
        let unordered = self.timeline.unordered(lane, kind);
        let id = self.memory.begin(what, unordered);
        self.timeline.began(lane, id);
    }

    /// The host has waited for a stream, or found it done.
    pub(super) fn waited_for(&mut self, stream: Handle<Stream>) -> Result<(), Status> {
        let (lane, kind) = self.lane(stream)?;
        self.timeline.synchronize(lane, kind);
        Ok(())
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

/// The host waits for a stream, which is done, or asks whether it is.
fn wait(stream: Handle<Stream>) -> Result<(), Status> {
    let mut state = lock()?;
    state.working_stream(stream)?;
    state.check_not_captured(stream)?;
    state.check_unsafe()?;
    state.waited_for(stream)
}

fn call(stream: Handle<Stream>, function: HostFunction, data: *mut c_void) -> Result<(), Status> {
    function.ok_or(Status::INVALID_VALUE)?;
    let data = data.expose_provenance();
    submit(
        "cuLaunchHostFunc",
        Order::In(stream),
        Work::CallBack { function, data },
    )
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
        let mut state = lock()?;
        state.streams.get(stream)?;
        let (lane, _) = state.lane(stream)?;
        state.abandon_capture(lane);
        state.streams.remove(stream).map(|_| ())
    }

    fn cuStreamQuery(stream: Handle<Stream>) {
        wait(stream)
    }

    fn cuStreamSynchronize(stream: Handle<Stream>) {
        wait(stream)
    }

    fn cuStreamWaitEvent(stream: Handle<Stream>, event: Handle<Event>, flags: u32) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let mut state = lock()?;
        state.working_stream(stream)?;
        let clock = state.events.get(event)?.clock.clone();
        // In a capture, 1 asks for an event that is recorded outside of it.
        if flags == 1 && state.is_captured(stream)? {
            return state.capture(stream, "cuStreamWaitEvent", &Work::Wait(event)).map(|_| ());
        }
        if state.capture_wait(stream, event)? {
            return Ok(());
        }
        let (lane, kind) = state.lane(stream)?;
        state.timeline.wait(lane, kind, &clock);
        Ok(())
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
        let state = lock()?;
        let found = state.device_of(state.stream_context(stream)?)?;
        device.set(found as i32)
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

    fn cuStreamAddCallback(stream: Handle<Stream>, callback: StreamCallback, data: *mut c_void, flags: u32) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        // Not under the lock: the function may take as long as it likes.
        let mut state = lock()?;
        let context = state.stream_context(stream)?;
        // Graphs have no nodes for these.
        state.check_not_captured(stream)?;
        let status = state.check_health(context).err().unwrap_or(Status::SUCCESS);
        drop(state);
        call_back_stream(callback, stream.number(), status, data)
    }

    fn cuLaunchHostFunc(stream: Handle<Stream>, function: HostFunction, data: *mut c_void) {
        call(stream, function, data)
    }

    fn cuLaunchHostFunc_v2(stream: Handle<Stream>, function: HostFunction, data: *mut c_void, _mode: u32) {
        call(stream, function, data)
    }
}
