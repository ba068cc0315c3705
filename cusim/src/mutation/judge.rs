//! What tells a mutant from the kernel it was made of.

use std::collections::{BTreeMap, HashSet};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use thiserror::Error;

use super::{Class, Mutant, alone, mutants};
use crate::exec::Options;
use crate::fault::{Fault, FaultKind};
use crate::program::{LoadError, Program};
use crate::ptx::{self, ParseError, ast::Module};
use crate::record::{Recording, Replay, ReplayError};

/// The schedules every launch is made in.
const SEEDS: u64 = 4;
/// Instructions a mutant may execute for each one of the original, and on top: a loop that does not end
/// any more is not waited for.
const PATIENCE: u64 = 4;
const LEAST: u64 = 100_000;

/// A kernel and the launches its mutants are told apart by.
#[derive(Debug)]
pub struct Subject {
    kernel: String,
    module: Module,
    cases: Vec<Case>,
}

/// A launch, and what the kernel itself does in it.
#[derive(Debug)]
struct Case {
    number: usize,
    launch: Recording,
    expected: Expected,
}

#[derive(Debug)]
struct Expected {
    /// What each schedule leaves.
    memory: Vec<Arc<Vec<Vec<u8>>>>,
    instructions: u64,
    /// Those executed in any of the schedules. What a mutant changes elsewhere makes no difference.
    ptx_lines: HashSet<u32>,
}

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it was noticed, and how.
    pub verdict: Verdict,
    /// The launch, by number, and the seed that showed it.
    pub shown_by: Option<(usize, u64)>,
}

/// How a mutant was noticed, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The program was refused.
    Refused,
    /// A check reported it.
    Reported(FaultKind),
    /// It computed something else, as a test of results would notice.
    Differs,
    /// It computed something else, which the checks should have foretold: they promise to report what is
    /// not synchronised.
    Missed,
    /// Nothing told it from the original.
    Survived,
}

impl Verdict {
    /// Whether the mutant needs no explanation.
    pub fn is_caught(self) -> bool {
        !matches!(self, Self::Missed | Self::Survived)
    }
}

/// Why mutants of a kernel cannot be judged.
#[derive(Debug, Error)]
pub enum SubjectError {
    /// The recorded module does not parse.
    #[error("{kernel}: {error}")]
    Parse {
        /// The kernel.
        kernel: String,
        /// Why.
        error: ParseError,
    },
    /// The recorded module does not load.
    #[error("{kernel}: {error}")]
    Load {
        /// The kernel.
        kernel: String,
        /// Why.
        error: LoadError,
    },
    /// The launch cannot be made again.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The kernel itself fails.
    #[error("launch {case}, seed {seed}: {fault}")]
    Fails {
        /// The launch, by number.
        case: usize,
        /// The schedule.
        seed: u64,
        /// How.
        fault: Box<Fault>,
    },
    /// Launches of one name come from several modules.
    #[error("{0} was recorded from several modules")]
    SeveralModules(String),
}

impl Subject {
    /// The kernels of some recordings, by name. Every launch is made in each schedule, on several threads.
    ///
    /// # Errors
    /// [`SubjectError`] for the first that cannot be judged.
    pub fn all(recordings: Vec<Recording>, threads: usize) -> Result<Vec<Self>, SubjectError> {
        let mut by_kernel = BTreeMap::<String, Vec<Recording>>::new();
        for recording in recordings {
            let launches = by_kernel.entry(recording.kernel.clone()).or_default();
            launches.push(recording);
        }
        let kernels = by_kernel.into_iter();
        kernels
            .map(|(kernel, launches)| Self::new(kernel, launches, threads))
            .collect()
    }

    fn new(kernel: String, launches: Vec<Recording>, threads: usize) -> Result<Self, SubjectError> {
        let text = launches[0].module.clone();
        if launches.iter().any(|launch| launch.module != text) {
            return Err(SubjectError::SeveralModules(kernel));
        }
        let module = ptx::parse(&text).map_err(|error| {
            let kernel = kernel.clone();
            SubjectError::Parse { kernel, error }
        })?;
        let module = alone(module, &kernel);
        let program = Program::load(&module).map_err(|error| {
            let kernel = kernel.clone();
            SubjectError::Load { kernel, error }
        })?;
        let expected = for_each(&launches, threads, |number, launch| {
            Expected::of(number, launch, &program)
        });
        let cases = launches.into_iter().zip(expected).enumerate();
        let cases = cases.map(|(number, (launch, expected))| {
            expected.map(|expected| Case {
                number,
                launch,
                expected,
            })
        });
        let mut cases = cases.collect::<Result<Vec<_>, _>>()?;
        // Most mutants are told apart by any launch.
        cases.sort_by_key(|case| case.expected.instructions);
        Ok(Self {
            kernel,
            module,
            cases,
        })
    }

    /// The kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Every mutant.
    pub fn mutants(&self) -> Vec<Mutant> {
        mutants(&self.module, &self.kernel)
    }

    /// Launches a mutant until something tells it from the kernel.
    pub fn judge(&self, mutant: &Mutant) -> Judgement {
        let Ok(program) = Program::load(&mutant.apply(&self.module)) else {
            return Judgement::of(Verdict::Refused);
        };
        // What a change of bounds or places computes depends on the schedule only where it makes a race, and
        // races are seen in each; the second also perturbs what is approximate.
        let seeds = match mutant.kind.class() {
            Class::Synchronisation => SEEDS,
            Class::Bounds | Class::Place => 2,
        };
        let mut differs = None;
        for seed in 0..seeds {
            let reached = |case: &&Case| case.expected.ptx_lines.contains(&mutant.ptx_line);
            for case in self.cases.iter().filter(reached) {
                let verdict = case.judge(&program, seed);
                let judgement = Judgement {
                    verdict,
                    shown_by: Some((case.number, seed)),
                };
                match verdict {
                    Verdict::Survived => {}
                    Verdict::Differs if mutant.kind.class() == Class::Synchronisation => {
                        let verdict = Verdict::Missed;
                        differs.get_or_insert(Judgement {
                            verdict,
                            ..judgement
                        });
                    }
                    _ => return judgement,
                }
            }
        }
        differs.unwrap_or(Judgement::of(Verdict::Survived))
    }
}

/// Judges mutants of a kernel on several threads, and calls `done` after each.
pub fn judge_all(
    subject: &Subject,
    mutants: &[Mutant],
    threads: usize,
    done: impl Fn(&Mutant, &Judgement) + Sync,
) -> Vec<Judgement> {
    for_each(mutants, threads, |_, mutant| {
        let judgement = subject.judge(mutant);
        done(mutant, &judgement);
        judgement
    })
}

/// `f` of each item and its index, in their order, computed on several threads.
fn for_each<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    f: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return results;
            };
            results.push((at, f(at, item)));
        }
    };
    let mut results = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        let results = results.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)));
        results.flatten().collect::<Vec<_>>()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

impl Judgement {
    fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            shown_by: None,
        }
    }
}

/// How launches are made. With correctly rounded approximations, steps that correct them do nothing, and nothing
/// would tell whether they are there.
fn options(seed: u64) -> Options {
    Options {
        seed,
        perturb: seed == 1,
        threads: 1,
        ..Options::default()
    }
}

impl Expected {
    fn of(number: usize, launch: &Recording, program: &Program) -> Result<Self, SubjectError> {
        let mut memory: Vec<Arc<Vec<Vec<u8>>>> = Vec::new();
        let mut instructions = 0;
        let mut ptx_lines = HashSet::new();
        for seed in 0..SEEDS {
            let options = Options {
                profile: true,
                ..options(seed)
            };
            let replay = launch.replay(program, &options)?;
            let counters = replay.outcome.map_err(|fault| SubjectError::Fails {
                case: number,
                seed,
                fault,
            })?;
            instructions = counters.instructions;
            ptx_lines.extend(replay.ptx_lines);
            // Most kernels leave the same whatever the schedule.
            let same = memory.first().filter(|first| ***first == replay.memory);
            memory.push(same.cloned().unwrap_or_else(|| Arc::new(replay.memory)));
        }
        Ok(Self {
            memory,
            instructions,
            ptx_lines,
        })
    }
}

impl Case {
    fn judge(&self, program: &Program, seed: u64) -> Verdict {
        let options = Options {
            max_instructions: Some(PATIENCE * self.expected.instructions + LEAST),
            ..options(seed)
        };
        match self.launch.replay(program, &options) {
            // A change of one instruction leaves the parameters as they were.
            Err(_) => Verdict::Refused,
            Ok(Replay {
                outcome: Err(fault),
                ..
            }) => Verdict::Reported(fault.kind),
            Ok(Replay { memory, .. }) if memory != *self.expected.memory[seed as usize] => {
                Verdict::Differs
            }
            Ok(_) => Verdict::Survived,
        }
    }
}
