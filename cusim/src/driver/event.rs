//! Events. Work is done when it is issued, so an event is over as soon as it is recorded; the time it
//! keeps is that of the host.

use std::time::Instant;

use super::abi::{Out, driver_api};
use super::context::Context;
use super::handle::{Handle, Object};
use super::order::Clock;
use super::state::lock;
use super::status::Status;
use super::stream::Stream;

/// An event.
pub(crate) struct Event {
    pub(super) context: Handle<Context>,
    flags: u32,
    recorded: Option<Instant>,
    /// What had been issued to its stream when it was recorded.
    pub(super) clock: Clock,
}

impl Object for Event {
    const TAG: u64 = 3;
    const WRONG: Status = Status::INVALID_HANDLE;
}

const DISABLE_TIMING: u32 = 2;
/// Blocking synchronisation, no timing, between processes.
const FLAGS: u32 = 7;

fn record(event: Handle<Event>, stream: Handle<Stream>) -> Result<(), Status> {
    let mut state = lock()?;
    let context = state.working_stream(stream)?;
    let (lane, kind) = state.lane(stream)?;
    let clock = state.timeline.record(lane, kind);
    let event = state.events.get_mut(event)?;
    if event.context != context {
        return Err(Status::INVALID_HANDLE);
    }
    event.recorded = Some(Instant::now());
    event.clock = clock;
    Ok(())
}

fn wait(event: Handle<Event>) -> Result<(), Status> {
    let mut state = lock()?;
    let event = state.events.get(event)?;
    let (context, clock) = (event.context, event.clock.clone());
    state.timeline.synchronize_event(&clock);
    state.check_health(context)
}

fn elapsed(out: Out<f32>, start: Handle<Event>, end: Handle<Event>) -> Result<(), Status> {
    let state = lock()?;
    let (start, end) = (state.events.get(start)?, state.events.get(end)?);
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
        let event = state.events.insert(Event { context, flags, recorded: None, clock: Clock::default() });
        out.set(event)
    }

    fn cuEventDestroy_v2(event: Handle<Event>) {
        lock()?.events.remove(event).map(|_| ())
    }

    fn cuEventRecord(event: Handle<Event>, stream: Handle<Stream>) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: Handle<Event>, stream: Handle<Stream>, flags: u32) {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        record(event, stream)
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
