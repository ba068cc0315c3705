//! What streams do, as values: done at once, or kept in a graph and done whenever that is launched.

use std::sync::{Arc, MutexGuard};

use super::abi::{HostFunction, call_back, host_out};
use super::alloc::Reservation;
use super::event::Event;
use super::handle::Handle;
use super::launch::Launch;
use super::order::Lane;
use super::planes::Copy3;
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::transfer::{Fill, Place};

/// Something that a stream does.
#[derive(Clone)]
pub(super) enum Work {
    Launch(Arc<Launch>),
    Copy {
        to: Place,
        from: Place,
        bytes: usize,
    },
    CopyPlanes(Copy3),
    Fill(Fill),
    /// A function of the host, with the address that it gets.
    CallBack {
        function: HostFunction,
        data: usize,
    },
    Allocate(Reservation),
    Free(u64),
    Record(Handle<Event>),
    Wait(Handle<Event>),
}

/// When a call does its work.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// In the current context, which the host waits for.
    Now,
    /// In a stream.
    In(Handle<Stream>),
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

/// Does something, or keeps it where the stream is being captured.
pub(super) fn submit(call: &'static str, order: Order, work: Work) -> Result<(), Status> {
    let mut state = lock()?;
    let stream = order.stream();
    state.working_stream(stream)?;
    if state.capture(stream, call, &work)? {
        return Ok(());
    }
    let lane = state.lane(stream)?;
    let is_waited_for = match &work {
        // The host waits for a copy that names no stream, and for one to memory of its own that is not pinned
        // (CUDA Driver API, "API synchronization behavior").
        Work::Copy { to, .. } => matches!(order, Order::Now) || state.is_pageable(*to),
        Work::CopyPlanes(what) => {
            matches!(order, Order::Now) || state.is_pageable(what.to.place()?)
        }
        // A fill is waited for where the host can see the memory.
        Work::Fill(fill) => state.host_block(fill.address as usize).is_some(),
        _ => false,
    };
    perform(state, call, lane, &work)?;
    if is_waited_for {
        lock()?.timeline.synchronize(lane.0, lane.1);
    }
    Ok(())
}

/// Does something now. The state is given up, since functions of the host may take as long as they like.
pub(super) fn perform(
    mut state: MutexGuard<'_, State>,
    call: &'static str,
    lane: Lane,
    work: &Work,
) -> Result<(), Status> {
    match work {
        Work::CallBack { function, data } => {
            drop(state);
            call_back(*function, host_out(*data as u64).pointer())
        }
        Work::Launch(launch) => {
            state.fetch_all_shared()?;
            state.open_memory(launch.context)?;
            let done = state.launch(lane, launch);
            state.return_shared()?;
            done
        }
        Work::Record(event) => state.record_event(*event, lane),
        Work::Wait(event) => {
            let clock = state.events.get(*event)?.clock.clone();
            state.timeline.wait(lane.0, lane.1, &clock);
            Ok(())
        }
        Work::Allocate(reservation) => state.allocate_reserved(call, reservation),
        Work::Free(address) => {
            state.begin(call, lane);
            state.release(call, *address)
        }
        Work::Copy { to, from, bytes } => {
            state.begin(call, lane);
            if *bytes == 0 {
                return Ok(());
            }
            state.fetch_shared(&[*to, *from])?;
            let done = state.transfer(call, *to, *from, *bytes);
            state.return_shared()?;
            done
        }
        Work::CopyPlanes(what) => {
            state.begin(call, lane);
            state.fetch_shared(&[what.to.place()?, what.from.place()?])?;
            let done = state.transfer_planes(call, what);
            state.return_shared()?;
            done
        }
        Work::Fill(fill) => {
            state.begin(call, lane);
            state.fetch_shared(&[Place::Device(fill.address)])?;
            let done = state.fill(call, fill);
            state.return_shared()?;
            done
        }
    }
}
