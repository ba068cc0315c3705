//! Capturing what streams are given to do, instead of doing it (CUDA C++ Programming Guide, "Creating a graph using
//! stream capture").
//!
//! A capture begins in one stream and spreads to others that wait for events recorded in it. Each stream of a capture
//! knows the nodes that what it does next comes after. A call that a capture cannot take part in fails and
//! invalidates the capture, which then fails until it is ended.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::ThreadId;

use super::abi::{Out, driver_api};
use super::context::Context;
use super::event::Event;
use super::graph::{Graph, Node};
use super::handle::{Handle, Object};
use super::legality::RELAXED;
use super::order::Kind;
use super::state::{State, lock};
use super::status::Status;
use super::stream::Stream;
use super::work::Work;

/// A capture that has not been ended.
pub(crate) struct Capture {
    pub(super) context: Handle<Context>,
    pub(super) mode: u32,
    pub(super) thread: ThreadId,
    /// The stream it began in.
    origin: u64,
    graph: Handle<Graph>,
    pub(super) is_valid: bool,
    /// Its streams, by the number that orders their work.
    pub(super) strands: BTreeMap<u64, Strand>,
}

impl Object for Capture {
    const TAG: u64 = 9;
    const WRONG: Status = Status::ILLEGAL_STATE;
}

/// A stream of a capture.
pub(super) struct Strand {
    pub(super) kind: Kind,
    /// What its next node comes after.
    tips: Vec<Handle<Node>>,
}

/// What an event stands for that was last recorded in a capture.
#[derive(Clone)]
pub(super) struct Captured {
    pub(super) capture: Handle<Capture>,
    tips: Vec<Handle<Node>>,
}

/// `CUstreamCaptureStatus`.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

impl State {
    /// The capture that a stream is part of, and the stream's number.
    pub(super) fn capture_of(
        &self,
        stream: Handle<Stream>,
    ) -> Result<Option<(Handle<Capture>, u64)>, Status> {
        if self.captured_lanes.is_empty() {
            return Ok(None);
        }
        let (lane, _) = self.lane(stream)?;
        let capture = self.captured_lanes.get(&lane);
        Ok(capture.map(|&capture| (capture, lane)))
    }

    /// The same, of a capture that is still valid.
    fn valid_capture_of(
        &self,
        stream: Handle<Stream>,
    ) -> Result<Option<(Handle<Capture>, u64)>, Status> {
        let found = self.capture_of(stream)?;
        match found {
            Some((capture, _)) if !self.captures.get(capture)?.is_valid => {
                Err(Status::STREAM_CAPTURE_INVALIDATED)
            }
            found => Ok(found),
        }
    }

    /// Keeps work for a stream that is captured; false where it is to be done.
    pub(super) fn capture(
        &mut self,
        stream: Handle<Stream>,
        call: &'static str,
        work: &Work,
    ) -> Result<bool, Status> {
        let Some((capture, lane)) = self.valid_capture_of(stream)? else {
            self.check_default_stream(stream)?;
            return Ok(false);
        };
        let tips = self.strand(capture, lane)?.tips.clone();
        let graph = self.captures.get(capture)?.graph;
        let node = self.add_node(graph, call, work.clone(), tips)?;
        self.strand(capture, lane)?.tips = vec![node];
        Ok(true)
    }

    /// Whether a stream is captured, in a capture that is still valid.
    pub(super) fn is_captured(&self, stream: Handle<Stream>) -> Result<bool, Status> {
        Ok(self.valid_capture_of(stream)?.is_some())
    }

    fn strand(&mut self, capture: Handle<Capture>, lane: u64) -> Result<&mut Strand, Status> {
        let capture = self.captures.get_mut(capture)?;
        capture.strands.get_mut(&lane).ok_or(Status::ILLEGAL_STATE)
    }

    /// What an event stands for that is recorded in a captured stream.
    pub(super) fn capture_event(
        &mut self,
        stream: Handle<Stream>,
    ) -> Result<Option<Captured>, Status> {
        let Some((capture, lane)) = self.valid_capture_of(stream)? else {
            self.check_default_stream(stream)?;
            return Ok(None);
        };
        let tips = self.strand(capture, lane)?.tips.clone();
        Ok(Some(Captured { capture, tips }))
    }

    /// Lets a stream wait for an event where one of the two is captured, and returns true; false where neither is.
    pub(super) fn capture_wait(
        &mut self,
        stream: Handle<Stream>,
        event: Handle<Event>,
    ) -> Result<bool, Status> {
        let own = self.valid_capture_of(stream)?;
        let event = self.events.get(event)?;
        let (captured, was_recorded) = (event.captured.clone(), event.was_recorded());
        match (own, captured) {
            (None, None) => {
                self.check_default_stream(stream)?;
                Ok(false)
            }
            // An event that was never recorded is nothing to wait for.
            (Some(_), None) if !was_recorded => Ok(true),
            (Some((capture, _)), None) => {
                Err(self.invalidate(capture, Status::STREAM_CAPTURE_ISOLATION))
            }
            (Some((capture, lane)), Some(captured)) if captured.capture == capture => {
                let tips = &mut self.strand(capture, lane)?.tips;
                for tip in captured.tips {
                    if !tips.contains(&tip) {
                        tips.push(tip);
                    }
                }
                Ok(true)
            }
            (Some((capture, _)), Some(captured)) => {
                if !self.captures.contains(captured.capture) {
                    return Err(self.invalidate(capture, Status::STREAM_CAPTURE_ISOLATION));
                }
                self.invalidate(captured.capture, Status::SUCCESS);
                Err(self.invalidate(capture, Status::STREAM_CAPTURE_MERGE))
            }
            (None, Some(captured)) => self.spread(stream, captured).map(|()| true),
        }
    }

    /// A stream that waits for an event of a capture becomes part of it.
    fn spread(&mut self, stream: Handle<Stream>, captured: Captured) -> Result<(), Status> {
        let Captured { capture, tips } = captured;
        let (lane, kind) = self.lane(stream)?;
        let Ok(found) = self.captures.get_mut(capture) else {
            return Err(Status::CAPTURED_EVENT);
        };
        if !found.is_valid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        if let Kind::Legacy(_) = kind {
            return Err(self.invalidate(capture, Status::STREAM_CAPTURE_IMPLICIT));
        }
        found.strands.insert(lane, Strand { kind, tips });
        self.captured_lanes.insert(lane, capture);
        Ok(())
    }

    /// A stream is gone, and with it the capture that began in it.
    pub(super) fn abandon_capture(&mut self, lane: u64) {
        let Some(&handle) = self.captured_lanes.get(&lane) else {
            return;
        };
        self.invalidate(handle, Status::SUCCESS);
        match self.captures.get_mut(handle) {
            Ok(capture) if capture.origin != lane => {
                capture.strands.remove(&lane);
                self.captured_lanes.remove(&lane);
            }
            _ => {
                if let Ok(capture) = self.remove_capture(handle) {
                    self.destroy_graph(capture.graph);
                }
            }
        }
    }

    /// A context is gone, and with it the captures in it.
    pub(super) fn abandon_captures_in(&mut self, context: Handle<Context>) {
        for capture in self.captures.extract(|capture| capture.context == context) {
            self.captured_lanes
                .retain(|lane, _| !capture.strands.contains_key(lane));
            self.destroy_graph(capture.graph);
        }
    }

    fn remove_capture(&mut self, handle: Handle<Capture>) -> Result<Capture, Status> {
        self.captured_lanes.retain(|_, capture| *capture != handle);
        self.captures.remove(handle)
    }

    fn begin_capture(&mut self, stream: Handle<Stream>, mode: u32) -> Result<(), Status> {
        let context = self.working_stream(stream)?;
        if mode > RELAXED {
            return Err(Status::INVALID_VALUE);
        }
        let (lane, kind) = self.lane(stream)?;
        if let Kind::Legacy(_) = kind {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        if self.captured_lanes.contains_key(&lane) {
            return Err(Status::ILLEGAL_STATE);
        }
        let graph = self.graphs.insert(Graph::default());
        let strand = Strand {
            kind,
            tips: Vec::new(),
        };
        let capture = self.captures.insert(Capture {
            context,
            mode,
            thread: std::thread::current().id(),
            origin: lane,
            graph,
            is_valid: true,
            strands: BTreeMap::from([(lane, strand)]),
        });
        self.captured_lanes.insert(lane, capture);
        Ok(())
    }

    fn end_capture(&mut self, stream: Handle<Stream>) -> Result<Handle<Graph>, Status> {
        self.stream_context(stream)?;
        let (handle, lane) = self.capture_of(stream)?.ok_or(Status::ILLEGAL_STATE)?;
        if self.captures.get(handle)?.origin != lane {
            return Err(self.invalidate(handle, Status::STREAM_CAPTURE_UNMATCHED));
        }
        let capture = self.remove_capture(handle)?;
        let result = if !capture.is_valid {
            Err(Status::STREAM_CAPTURE_INVALIDATED)
        } else if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            // The capture is over all the same.
            Err(Status::STREAM_CAPTURE_WRONG_THREAD)
        } else if !self.is_joined(&capture) {
            Err(Status::STREAM_CAPTURE_UNJOINED)
        } else {
            Ok(capture.graph)
        };
        if result.is_err() {
            self.destroy_graph(capture.graph);
        }
        result
    }

    /// Whether all that was captured comes before the end of the stream that the capture began in.
    fn is_joined(&self, capture: &Capture) -> bool {
        let mut before = BTreeSet::new();
        let mut rest: Vec<_> = capture
            .strands
            .get(&capture.origin)
            .map_or(Vec::new(), |strand| strand.tips.clone());
        while let Some(node) = rest.pop() {
            if before.insert(node.number())
                && let Ok(node) = self.nodes.get(node)
            {
                rest.extend(&node.after);
            }
        }
        let mut tips = capture.strands.values().flat_map(|strand| &strand.tips);
        tips.all(|tip| before.contains(&tip.number()))
    }

    fn capture_info(&mut self, stream: Handle<Stream>, out: &Info) -> Result<(), Status> {
        self.stream_context(stream)?;
        self.check_default_stream(stream)?;
        let Some((handle, lane)) = self.capture_of(stream)? else {
            return out.status.set(NONE);
        };
        let capture = self.captures.get(handle)?;
        out.status.set(status_of(capture))?;
        if capture.is_valid {
            out.id.set_if_wanted(handle.number());
            out.graph.set_if_wanted(capture.graph);
            // Valid until the next call that concerns the stream, which is all that callers may count on.
            let tips = &self.strand(handle, lane)?.tips;
            out.tips.set_if_wanted(tips.as_ptr());
            out.count.set_if_wanted(tips.len());
        }
        Ok(())
    }
}

fn status_of(capture: &Capture) -> u32 {
    if capture.is_valid {
        ACTIVE
    } else {
        INVALIDATED
    }
}

/// Where to put what is asked about a capture.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Handle<Graph>>,
    tips: Out<*const Handle<Node>>,
    count: Out<usize>,
}

driver_api! {
    fn cuStreamBeginCapture_v2(stream: Handle<Stream>, mode: u32) {
        lock()?.begin_capture(stream, mode)
    }

    fn cuStreamEndCapture(stream: Handle<Stream>, out: Out<Handle<Graph>>) {
        let out = out.required()?;
        let ended = lock()?.end_capture(stream);
        out.set(ended.unwrap_or(Handle::NULL))?;
        ended.map(|_| ())
    }

    fn cuStreamIsCapturing(stream: Handle<Stream>, status: Out<u32>) {
        let mut state = lock()?;
        state.stream_context(stream)?;
        state.check_default_stream(stream)?;
        let found = state.capture_of(stream)?;
        let found = found.map(|(capture, _)| state.captures.get(capture).map(status_of));
        status.set(found.transpose()?.unwrap_or(NONE))
    }

    fn cuStreamGetCaptureInfo(stream: Handle<Stream>, status: Out<u32>, id: Out<u64>) {
        let (graph, tips, count) = (Out::NULL, Out::NULL, Out::NULL);
        lock()?.capture_info(stream, &Info { status, id, graph, tips, count })
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle<Stream>,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle<Graph>>,
        tips: Out<*const Handle<Node>>,
        count: Out<usize>,
    ) {
        lock()?.capture_info(stream, &Info { status, id, graph, tips, count })
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle<Stream>,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle<Graph>>,
        tips: Out<*const Handle<Node>>,
        edges: Out<*const u64>,
        count: Out<usize>,
    ) {
        // No edge is of a special kind.
        edges.set_if_wanted(std::ptr::null());
        lock()?.capture_info(stream, &Info { status, id, graph, tips, count })
    }
}
