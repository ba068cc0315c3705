//! What captures forbid: calls that wait, or that may wait behind the scenes, for what is only captured.
//!
//! Such a call fails, and the captures that it could not be part of are invalidated (CUDA C++ Programming Guide,
//! "Prohibited and unhandled operations").

use std::cell::Cell;

use super::abi::{Out, driver_api};
use super::capture::Capture;
use super::context::Context;
use super::event::Event;
use super::handle::Handle;
use super::order::Kind;
use super::state::{State, check_initialized};
use super::status::Status;
use super::stream::Stream;

/// Which calls a capture keeps threads from, and a thread lets itself be kept from (`CUstreamCaptureMode`).
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
pub(super) const RELAXED: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

impl State {
    /// Makes a capture fail until it is ended, and returns the status.
    pub(super) fn invalidate(&mut self, capture: Handle<Capture>, status: Status) -> Status {
        if let Ok(capture) = self.captures.get_mut(capture) {
            capture.is_valid = false;
        }
        status
    }

    /// Invalidates the captures that something is true of, for which a call fails with this status.
    fn refuse(
        &mut self,
        status: Status,
        concerns: impl Fn(&Capture) -> bool,
    ) -> Result<(), Status> {
        let mut is_refused = false;
        for capture in self.captures.iter_mut().filter(|capture| concerns(capture)) {
            capture.is_valid = false;
            is_refused = true;
        }
        if is_refused { Err(status) } else { Ok(()) }
    }

    /// To be called by what may wait for other streams behind the scenes (CUDA Driver API,
    /// `cuThreadExchangeStreamCaptureMode`).
    pub(super) fn check_unsafe(&mut self) -> Result<(), Status> {
        let (mode, thread) = (MODE.get(), std::thread::current().id());
        self.refuse(Status::STREAM_CAPTURE_UNSUPPORTED, |capture| match mode {
            RELAXED => false,
            THREAD_LOCAL => capture.thread == thread && capture.mode != RELAXED,
            _ => capture.mode == GLOBAL || capture.thread == thread && capture.mode != RELAXED,
        })
    }

    /// To be called by what waits for a stream or asks whether it is done.
    pub(super) fn check_not_captured(&mut self, stream: Handle<Stream>) -> Result<(), Status> {
        match self.capture_of(stream)? {
            Some((capture, _)) => Err(self.invalidate(capture, Status::STREAM_CAPTURE_UNSUPPORTED)),
            None => self.check_default_stream(stream),
        }
    }

    /// To be called by what waits for a whole context.
    pub(super) fn check_no_capture_in(&mut self, context: Handle<Context>) -> Result<(), Status> {
        self.refuse(Status::STREAM_CAPTURE_UNSUPPORTED, |capture| {
            capture.context == context
        })
    }

    /// The default stream waits for blocking streams, so it cannot be used while one of them is captured.
    pub(super) fn check_default_stream(&mut self, stream: Handle<Stream>) -> Result<(), Status> {
        if self.captures.is_empty() {
            return Ok(());
        }
        let (_, Kind::Legacy(context)) = self.lane(stream)? else {
            return Ok(());
        };
        self.refuse(Status::STREAM_CAPTURE_IMPLICIT, |capture| {
            let mut strands = capture.strands.values();
            strands.any(|strand| strand.kind == Kind::Blocking(context))
        })
    }

    /// To be called by what waits for an event or asks whether it is over.
    pub(super) fn check_event(&mut self, event: Handle<Event>) -> Result<(), Status> {
        match &self.events.get(event)?.captured {
            Some(captured) => {
                let capture = captured.capture;
                Err(self.invalidate(capture, Status::CAPTURED_EVENT))
            }
            None => self.check_unsafe(),
        }
    }
}

driver_api! {
    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        check_initialized()?;
        let wanted = mode.get()?;
        if wanted > RELAXED {
            return Err(Status::INVALID_VALUE);
        }
        mode.set(MODE.replace(wanted))
    }
}
