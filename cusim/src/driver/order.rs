//! What happens before what: the order of operations that streams, events and the host's waiting give.
//!
//! Each operation has a number in its stream. A stream, an event and the host each know, of every stream, up to
//! which number its operations happen before what they do next (CUDA C++ Programming Guide, "Streams", "Implicit
//! Synchronization").

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Operations that are remembered: the latest.
const REMEMBERED: usize = 4096;

/// Of every stream, the number of the last operation that is known to happen before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Clock(BTreeMap<u64, u64>);

impl Clock {
    fn join(&mut self, other: &Clock) {
        for (&stream, &number) in &other.0 {
            let known = self.0.entry(stream).or_default();
            *known = number.max(*known);
        }
    }

    fn knows(&self, operation: &Operation) -> bool {
        self.0.get(&operation.stream) >= Some(&operation.number)
    }
}

/// How a stream stands to the legacy default stream of its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// It is the default stream of this context: it waits for all blocking ones, and they for it.
    Legacy(u64),
    Blocking(u64),
    #[default]
    NonBlocking,
}

/// What orders an operation: the number of a stream, and how that stands to the default stream.
pub(super) type Lane = (u64, Kind);

#[derive(Debug)]
struct Operation {
    id: u32,
    stream: u64,
    number: u64,
}

/// The order of all operations so far.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    streams: HashMap<u64, (Kind, Clock)>,
    host: Clock,
    operations: VecDeque<Operation>,
}

impl Timeline {
    /// What a stream's next operation happens after.
    fn clock(&mut self, stream: u64, kind: Kind) -> Clock {
        let mut clock = self.host.clone();
        for (&other, (other_kind, others)) in &self.streams {
            let waits = match (kind, *other_kind) {
                (Kind::Legacy(own), Kind::Legacy(other) | Kind::Blocking(other)) => own == other,
                (Kind::Blocking(own), Kind::Legacy(other)) => own == other,
                _ => false,
            };
            if other == stream || waits {
                clock.join(others);
            }
        }
        clock
    }

    /// An operation is about to begin in a stream: those that do not happen before it. [`Timeline::began`] gives it
    /// its number.
    pub(super) fn unordered(&mut self, stream: u64, kind: Kind) -> Vec<u32> {
        let clock = self.clock(stream, kind);
        let unknown = self
            .operations
            .iter()
            .filter(|operation| !clock.knows(operation));
        let unordered = unknown.map(|operation| operation.id).collect();
        self.streams.insert(stream, (kind, clock));
        unordered
    }

    /// An operation began, by the number that memory knows it by.
    pub(super) fn began(&mut self, stream: u64, id: u32) {
        let (_, clock) = self.streams.entry(stream).or_default();
        let number = clock.0.entry(stream).or_default();
        *number += 1;
        let operation = Operation {
            id,
            stream,
            number: *number,
        };
        // What the host has waited for happens before all that follows.
        let host = &self.host;
        self.operations.retain(|known| !host.knows(known));
        if self.operations.len() == REMEMBERED {
            self.operations.pop_front();
        }
        self.operations.push_back(operation);
    }

    /// What an event that is recorded in a stream stands for.
    pub(super) fn record(&mut self, stream: u64, kind: Kind) -> Clock {
        self.clock(stream, kind)
    }

    /// What a stream does next waits for an event.
    pub(super) fn wait(&mut self, stream: u64, kind: Kind, event: &Clock) {
        let mut clock = self.clock(stream, kind);
        clock.join(event);
        self.streams.insert(stream, (kind, clock));
    }

    /// A stream is gone for good.
    pub(super) fn forget(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// The host waited for a stream.
    pub(super) fn synchronize(&mut self, stream: u64, kind: Kind) {
        let clock = self.clock(stream, kind);
        self.host.join(&clock);
    }

    /// The host waited for an event.
    pub(super) fn synchronize_event(&mut self, event: &Clock) {
        self.host.join(event);
    }

    /// The host waited for everything.
    pub(super) fn synchronize_all(&mut self) {
        for (_, clock) in self.streams.values() {
            self.host.join(clock);
        }
        self.operations.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams 1 and 2 are blocking, 3 is not, 9 is the default one.
    struct Program(Timeline, u32);

    const NONE: [u32; 0] = [];

    fn kind(stream: u64) -> Kind {
        match stream {
            9 => Kind::Legacy(0),
            3 => Kind::NonBlocking,
            _ => Kind::Blocking(0),
        }
    }

    impl Program {
        fn new() -> Self {
            Self(Timeline::default(), 0)
        }

        /// Operations that the next one in this stream is not ordered after.
        fn run(&mut self, stream: u64) -> Vec<u32> {
            let unordered = self.0.unordered(stream, kind(stream));
            self.1 += 1;
            self.0.began(stream, self.1);
            unordered
        }
    }

    #[test]
    fn a_stream_is_in_order_and_others_are_not() {
        let mut program = Program::new();
        assert_eq!(program.run(1), NONE);
        assert_eq!(program.run(1), NONE);
        assert_eq!(program.run(2), [1, 2]);
        assert_eq!(program.run(1), [3]);
    }

    #[test]
    fn the_default_stream_is_in_order_with_blocking_ones() {
        let mut program = Program::new();
        program.run(1);
        program.run(3);
        assert_eq!(program.run(9), [2], "after stream 1");
        assert_eq!(program.run(2), [2], "after the default stream");
        assert_eq!(program.run(3), [1, 3, 4]);
    }

    #[test]
    fn events_order_streams() {
        let mut program = Program::new();
        program.run(1);
        let event = program.0.record(1, kind(1));
        program.run(1);
        program.0.wait(2, kind(2), &event);
        assert_eq!(program.run(2), [2], "after what was before the event");
        let passed_on = program.0.record(2, kind(2));
        program.0.wait(3, kind(3), &passed_on);
        assert_eq!(program.run(3), [2], "also through another stream");
    }

    #[test]
    fn waiting_orders_what_follows() {
        let mut program = Program::new();
        program.run(1);
        program.run(2);
        program.0.synchronize(1, kind(1));
        assert_eq!(program.run(3), [2]);
        program.0.synchronize_all();
        assert_eq!(program.run(1), NONE);
        let event = program.0.record(1, kind(1));
        program.0.synchronize_event(&event);
        assert_eq!(program.run(2), NONE);
    }
}
