//! The blocks of a launch: on several threads, one after the other, or all at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cta::{Launch, Progress};
use super::{Counters, LaunchConfig};
use crate::fault::Fault;
use crate::memory::GlobalMemory;
use crate::program::{Kernel, Program};

pub(super) fn run(
    program: &Program,
    kernel: &Kernel,
    memory: &GlobalMemory,
    config: &LaunchConfig<'_>,
) -> Result<Counters, Box<Fault>> {
    let blocks = config.grid.iter().map(|&size| u64::from(size)).product();
    let launch = || Launch::new(program, kernel, memory, config);
    if config.cooperative && blocks > 1 {
        return all_at_once(blocks, launch);
    }
    let threads = match config.options.threads {
        _ if kernel.communicates => 1,
        0 => std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        threads => threads as u64,
    };
    let queue = Queue {
        next: AtomicU64::new(0),
        end: AtomicU64::new(blocks),
        fault: Mutex::new(None),
    };
    let mut counters = Counters::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.min(blocks))
            .map(|_| scope.spawn(|| queue.work(launch())))
            .collect();
        counters += queue.work(launch());
        for worker in workers {
            match worker.join() {
                Ok(done) => counters += done,
                // A bug of the emulator, which goes on where it is reported.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    let fault = queue
        .fault
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    fault.map_or(Ok(counters), |(_, fault)| Err(fault))
}

/// Blocks that are to run.
struct Queue {
    next: AtomicU64,
    /// Lowered to the first block that failed: those before it still run, so that it is the same in any case.
    end: AtomicU64,
    fault: Mutex<Option<(u64, Box<Fault>)>>,
}

impl Queue {
    /// Runs blocks until there are no more.
    fn work(&self, mut launch: Launch<'_>) -> Counters {
        loop {
            let block = self.next.fetch_add(1, Ordering::Relaxed);
            if block >= self.end.load(Ordering::Relaxed) {
                return launch.into_counters();
            }
            launch.start(block);
            let outcome = loop {
                match launch.turn() {
                    Ok(Progress::Done) => break Ok(()),
                    Ok(Progress::Some) => {}
                    Ok(Progress::None) => break Err(launch.waits()),
                    Ok(Progress::Idle) => break Err(launch.spins()),
                    Err(fault) => break Err(fault),
                }
            };
            if let Err(fault) = outcome {
                self.failed(block, fault);
            }
        }
    }

    fn failed(&self, block: u64, fault: Box<Fault>) {
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(other, _)| block < *other) {
            *first = Some((block, fault));
            self.end.fetch_min(block, Ordering::Relaxed);
        }
    }
}

/// Gives every block of a cooperative launch its turns.
fn all_at_once<'a>(blocks: u64, launch: impl Fn() -> Launch<'a>) -> Result<Counters, Box<Fault>> {
    let mut counters = Counters::default();
    let mut running: Vec<Launch<'a>> = Vec::new();
    for block in 0..blocks {
        let mut next = launch();
        if let Some(first) = running.first() {
            next.share_with(first);
        }
        next.start(block);
        running.push(next);
    }
    while !running.is_empty() {
        let (mut progress, mut idle) = (false, true);
        let mut left = Vec::with_capacity(running.len());
        for mut launch in running {
            match launch.turn()? {
                Progress::Done => {
                    counters += launch.into_counters();
                    progress = true;
                    idle = false;
                    continue;
                }
                Progress::Some => (progress, idle) = (true, false),
                Progress::Idle => progress = true,
                Progress::None => {}
            }
            left.push(launch);
        }
        running = left;
        if let Some(launch) = running.first() {
            if !progress {
                return Err(launch.waits());
            }
            if idle {
                return Err(launch.spins());
            }
        }
    }
    Ok(counters)
}
