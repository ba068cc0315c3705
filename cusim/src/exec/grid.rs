//! The blocks of a launch: on several threads, one after the other, or all at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::LaunchConfig;
use super::cta::{Launch, Progress};
use super::profile::Tally;
use crate::fault::Fault;
use crate::memory::GlobalMemory;
use crate::program::{Kernel, Program};

pub(super) fn run(
    program: &Program,
    kernel: &Kernel,
    memory: &mut GlobalMemory,
    config: &LaunchConfig<'_>,
    workspace: u64,
) -> Result<Tally, Box<Fault>> {
    let blocks = config.grid.iter().map(|&size| u64::from(size)).product();
    if config.cooperative && blocks > 1 {
        let launch = || Launch::new(program, kernel, memory, config, workspace);
        return all_at_once(blocks, launch);
    }
    let threads = match config.options.threads {
        _ if kernel.communicates => 1,
        0 => std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        threads => threads as u64,
    };
    if threads.min(blocks) > 1 {
        memory.begin_attempt();
        let launch = || Launch::new(program, kernel, memory, config, workspace);
        let outcome = in_parallel(blocks, threads, launch);
        memory.end_attempt(outcome.is_none());
        if let Some(tally) = outcome {
            return Ok(tally);
        }
        // Which blocks ran before the fault, and which of two that race came first, was chance.
        memory.begin(kernel.name(), config.unordered.to_vec());
    }
    let mut launch = Launch::new(program, kernel, memory, config, workspace);
    for block in 0..blocks {
        run_block(&mut launch, block)?;
    }
    Ok(launch.into_tally())
}

fn run_block(launch: &mut Launch<'_>, block: u64) -> Result<(), Box<Fault>> {
    launch.start(block);
    loop {
        match launch.turn()? {
            Progress::Done => return Ok(()),
            Progress::Some => {}
            Progress::None => return Err(launch.waits()),
            Progress::Idle => return Err(launch.spins()),
        }
    }
}

/// Runs blocks that cannot know of each other; nothing where one of them fails.
fn in_parallel<'a>(
    blocks: u64,
    threads: u64,
    launch: impl Fn() -> Launch<'a> + Sync,
) -> Option<Tally> {
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut launch = launch();
        while !failed.load(Ordering::Relaxed) {
            let taken = next.fetch_add(1, Ordering::Relaxed);
            // The last blocks first: under a causal mask they take longest, and a long one that starts
            // last leaves the other threads without work.
            let Some(block) = (blocks - 1).checked_sub(taken) else {
                break;
            };
            if run_block(&mut launch, block).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
        launch.into_tally()
    };
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..threads.min(blocks))
            .map(|_| scope.spawn(work))
            .collect();
        tally += work();
        for worker in workers {
            match worker.join() {
                Ok(done) => tally += done,
                // A bug of the emulator, which goes on where it is reported.
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    (!failed.into_inner()).then_some(tally)
}

/// Gives every block of a cooperative launch its turns.
fn all_at_once<'a>(blocks: u64, launch: impl Fn() -> Launch<'a>) -> Result<Tally, Box<Fault>> {
    let mut tally = Tally::default();
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
                    tally += launch.into_tally();
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
    Ok(tally)
}
