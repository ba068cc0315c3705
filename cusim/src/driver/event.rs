//! Events. Work is done when it is issued, so an event is over as soon as it is recorded; the time it
//! keeps is that of the host.

use std::time::Instant;

use super::abi::{Out, driver_api};
use super::capture::Captured;
use super::context::Context;
use super::handle::{Handle, Object};
use super::order::{Clock, Lane};
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::work::Work;

/// An event.
pub(crate) struct Event {
    pub(super) context: Handle<Context>,
    flags: u32,
    recorded: Option<Instant>,
    /// What had been issued to its stream when it was recorded.
    pub(super) clock: Clock,
    /// What it stands for, where its stream was being captured.
    pub(super) captured: Option<Captured>,
}

impl Event {
    pub(super) fn was_recorded(&self) -> bool {
        self.recorded.is_some()
    }
}

impl Object for Event {
    const TAG: u64 = 3;
    const WRONG: Status = Status::INVALID_HANDLE;
}

const DISABLE_TIMING: u32 = 2;
/// Blocking synchronisation, no timing, between processes.
const FLAGS: u32 = 7;

/// Flag of recording: in a capture, the event is recorded whenever the graph is launched.
const EXTERNAL: u32 = 1;

impl State {
    /// Records an event behind all that a stream was given to do.
    pub(super) fn record_event(
        &mut self,
        event: Handle<Event>,
        (lane, kind): Lane,
    ) -> Result<(), Status> {
        let clock = self.timeline.record(lane, kind);
        let event = self.events.get_mut(event)?;
        event.recorded = Some(Instant::now());
        event.clock = clock;
        event.captured = None;
        Ok(())
    }
}

fn record(event: Handle<Event>, stream: Handle<Stream>, flags: u32) -> Result<(), Status> {
    let mut state = lock()?;
    let context = state.working_stream(stream)?;
    if state.events.get(event)?.context != context {
        return Err(Status::INVALID_HANDLE);
    }
    if flags == EXTERNAL && state.is_captured(stream)? {
        let work = Work::Record(event);
        return state.capture(stream, "cuEventRecord", &work).map(|_| ());
    }
    if let Some(captured) = state.capture_event(stream)? {
        state.events.get_mut(event)?.captured = Some(captured);
        return Ok(());
    }
    let lane = state.lane(stream)?;
    state.record_event(event, lane)
}

fn wait(event: Handle<Event>) -> Result<(), Status> {
    let mut state = lock()?;
    state.check_event(event)?;
    let event = state.events.get(event)?;
    let (context, clock) = (event.context, event.clock.clone());
    state.timeline.synchronize_event(&clock);
    state.check_health(context)
}

fn elapsed(out: Out<f32>, start: Handle<Event>, end: Handle<Event>) -> Result<(), Status> {
    let state = lock()?;
    let (start, end) = (state.events.get(start)?, state.events.get(end)?);
    if start.captured.is_some() || end.captured.is_some() {
        return Err(Status::CAPTURED_EVENT);
    }
    if (start.flags | end.flags) & DISABLE_TIMING != 0 {
        return Err(Status::INVALID_HANDLE);
    }
    state.check_health(end.context)?;
    let (Some(start), Some(end)) = (start.recorded, end.recorded) else {
        return Err(Status::INVALID_HANDLE);
    };
    let forward = end.saturating_duration_since(start).as_secs_f64();
    let backward = start.saturating_duration_since(end).as_secs_f64();
    out.set(((forward - backward) * 1e3) as f32)
}

driver_api! {
    fn cuEventCreate(out: Out<Handle<Event>>, flags: u32) {
        let out = out.required()?;
        let mut state = lock()?;
        let context = state.healthy()?;
        if flags & !FLAGS != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let event = state.events.insert(Event { context, flags, recorded: None, clock: Clock::default(), captured: None });
        out.set(event)
    }

    fn cuEventDestroy_v2(event: Handle<Event>) {
        lock()?.events.remove(event).map(|_| ())
    }

    fn cuEventRecord(event: Handle<Event>, stream: Handle<Stream>) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle<Event>, stream: Handle<Stream>, flags: u32) {
        if flags > EXTERNAL {
            return Err(Status::INVALID_VALUE);
        }
        record(event, stream, flags)
    }

    fn cuEventQuery(event: Handle<Event>) {
        wait(event)
    }

    fn cuEventSynchronize(event: Handle<Event>) {
        wait(event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle<Event>, end: Handle<Event>) {
        elapsed(milliseconds, start, end)
    }
}
