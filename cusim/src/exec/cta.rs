//! One block after the other: its warps, shared memory and barriers.

use super::barrier::{self, Barrier};
use super::count::Counters;
use super::shadow::Shadow;
use super::warp::{State, Warp};
use super::{LaunchConfig, run};
use crate::fault::{Fault, FaultKind, Lanes};
use crate::memory::GlobalMemory;
use crate::program::op::{Initial, Special};
use crate::program::{Kernel, Program};

/// Instructions a warp runs before others have a turn, where it does not have to wait earlier: enough
/// that only a spin loop notices.
const TURN: u32 = 100_000;

/// The shared memory of a block.
pub(super) struct Shared {
    pub(super) data: Vec<u8>,
    pub(super) shadow: Shadow,
}

/// What every instruction can reach.
pub(super) struct Env<'a> {
    pub(super) program: &'a Program,
    pub(super) kernel: &'a Kernel,
    pub(super) memory: &'a mut GlobalMemory,
    pub(super) config: &'a LaunchConfig<'a>,
    pub(super) shared: Shared,
    pub(super) barriers: Vec<Barrier>,
    pub(super) counters: Counters,
    pub(super) cta: [u32; 3],
}

/// A launch in progress; warps and shared memory are used again for every block.
pub(super) struct Launch<'a> {
    env: Env<'a>,
    warps: Vec<Warp>,
    threads: u32,
    random: u64,
}

impl<'a> Launch<'a> {
    pub(super) fn new(
        program: &'a Program,
        kernel: &'a Kernel,
        memory: &'a mut GlobalMemory,
        config: &'a LaunchConfig<'a>,
    ) -> Self {
        let threads = config.block.iter().product::<u32>();
        let warps = threads.div_ceil(32) as usize;
        let bytes = (kernel.static_shared() + config.dynamic_shared) as usize;
        let shared = Shared {
            data: vec![0; bytes],
            shadow: Shadow::new(bytes, warps, config.options.checks.race),
        };
        let env = Env {
            program,
            kernel,
            memory,
            config,
            shared,
            barriers: vec![Barrier::default(); barrier::COUNT],
            counters: Counters::default(),
            cta: [0; 3],
        };
        let warps = (0..warps).map(|index| Warp::new(index, kernel)).collect();
        Self {
            env,
            warps,
            threads,
            random: config.options.seed,
        }
    }

    pub(super) fn into_counters(self) -> Counters {
        self.env.counters
    }

    pub(super) fn run_cta(&mut self, cta: [u32; 3]) -> Result<(), Box<Fault>> {
        self.env.cta = cta;
        self.env.shared.shadow.clear();
        self.env.barriers.fill(Barrier::default());
        for warp in &mut self.warps {
            let first = warp.index as u32 * 32;
            let lanes = (self.threads - first).min(32);
            warp.start(u32::MAX >> (32 - lanes));
            initialise(warp, &self.env);
        }
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        loop {
            let turn = self.schedule(&mut order);
            let mut progress = false;
            for &index in &order {
                let warp = &mut self.warps[index];
                if warp.state == State::Ready {
                    run::run(warp, &mut self.env, turn)?;
                    progress = true;
                    self.release();
                }
            }
            if self.warps.iter().all(|warp| warp.state == State::Done) {
                return Ok(());
            }
            if !progress {
                return Err(self.deadlock());
            }
        }
    }

    /// The order of warps and how long each may run; seed 0 keeps the order and lets each run on.
    fn schedule(&mut self, order: &mut [usize]) -> u32 {
        if self.env.config.options.seed == 0 {
            return TURN;
        }
        for last in (1..order.len()).rev() {
            order.swap(last, (self.next_random() % (last as u64 + 1)) as usize);
        }
        1 + (self.next_random() % 64) as u32
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Lets go of barriers at which all have arrived.
    fn release(&mut self) {
        let unfinished = self
            .warps
            .iter()
            .filter(|warp| warp.state != State::Done)
            .count();
        for barrier in &mut self.env.barriers {
            if !barrier.is_complete(unfinished as u32) {
                continue;
            }
            let barrier = std::mem::take(barrier);
            for index in barrier.waiting {
                self.warps[index].state = State::Ready;
                self.env.shared.shadow.acquire(index, &barrier.clocks);
                self.env.shared.shadow.advance(index);
            }
        }
    }

    fn deadlock(&self) -> Box<Fault> {
        let mut notes = Vec::new();
        let mut first = None;
        for warp in &self.warps {
            let what = match warp.state {
                State::Barrier(id, pc) => {
                    first = first.or(Some((warp, pc)));
                    let site = self.env.program.site(self.env.kernel, pc);
                    format!("waits at barrier {id}, {site}")
                }
                State::Done => "has exited".to_owned(),
                State::Ready => "could run".to_owned(),
            };
            notes.push(format!("warp {} {what}", warp.index));
        }
        let (warp, pc) = first.map_or((0, 0), |(warp, pc)| (warp.index, pc));
        Box::new(Fault {
            kind: FaultKind::Deadlock,
            kernel: self.env.kernel.name().to_owned(),
            message: "all warps wait and none can go on".to_owned(),
            site: self.env.program.site(self.env.kernel, pc),
            cta: self.env.cta,
            warp: warp as u32,
            lanes: self.warps.get(warp).map_or(0, |warp| warp.live),
            address: None,
            other: None,
            notes,
        })
    }
}

impl Env<'_> {
    /// A fault of some lanes at an instruction.
    pub(super) fn fault(
        &self,
        kind: FaultKind,
        message: impl Into<String>,
        warp: &Warp,
        pc: usize,
        lanes: u32,
    ) -> Box<Fault> {
        Box::new(Fault {
            kind,
            kernel: self.kernel.name().to_owned(),
            message: message.into(),
            site: self.program.site(self.kernel, pc),
            cta: self.cta,
            warp: warp.index as u32,
            lanes,
            address: None,
            other: None,
            notes: Vec::new(),
        })
    }

    /// No group of a warp can go on.
    pub(super) fn stuck(&self, warp: &Warp) -> Box<Fault> {
        let group = warp.groups.first().copied();
        let (pc, lanes) = group.map_or((0, 0), |group| (group.pc as usize, group.mask));
        let message = "lanes of a warp wait for each other at different instructions";
        let mut fault = self.fault(FaultKind::Deadlock, message, warp, pc, lanes);
        for group in &warp.groups {
            let site = self.program.site(self.kernel, group.pc as usize);
            fault
                .notes
                .push(format!("{} wait in {site}", Lanes(group.mask)));
        }
        if warp.live != u32::MAX {
            fault.notes.push(format!(
                "{} have exited or never existed",
                Lanes(!warp.live)
            ));
        }
        fault
    }
}

/// Sets constants and special registers.
fn initialise(warp: &mut Warp, env: &Env<'_>) {
    for &(slot, initial) in &env.kernel.initial_w {
        warp.w[slot as usize] =
            lanes_of_initial(initial, warp.index, env).map(|value| value as u32);
    }
    for &(slot, initial) in &env.kernel.initial_d {
        warp.d[slot as usize] = lanes_of_initial(initial, warp.index, env);
    }
}

fn lanes_of_initial(initial: Initial, warp: usize, env: &Env<'_>) -> [u64; 32] {
    match initial {
        Initial::Value(value) => [value; 32],
        Initial::GlobalAddress(index, offset) => {
            let base = env
                .config
                .global_addresses
                .get(index as usize)
                .copied()
                .unwrap_or(0);
            [base.wrapping_add_signed(offset); 32]
        }
        Initial::Special(special) => {
            std::array::from_fn(|lane| special_value(special, warp as u32, lane as u32, env).into())
        }
    }
}

fn special_value(special: Special, warp: u32, lane: u32, env: &Env<'_>) -> u32 {
    let config = env.config;
    let [width, height, _] = config.block;
    let thread = warp * 32 + lane;
    match special {
        Special::Tid(0) => thread % width,
        Special::Tid(1) => thread / width % height,
        Special::Tid(_) => thread / width / height,
        Special::Ntid(axis) => config.block[usize::from(axis)],
        Special::Ctaid(axis) => env.cta[usize::from(axis)],
        Special::Nctaid(axis) => config.grid[usize::from(axis)],
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NWarpId => config.block.iter().product::<u32>().div_ceil(32),
        Special::SmId => env.cta[0] % config.arch.multiprocessors,
        Special::NSmId => config.arch.multiprocessors,
        Special::GridId => 0,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
        Special::LaneMaskGe => !((1 << lane) - 1),
        Special::DynamicSharedSize => config.dynamic_shared,
        Special::TotalSharedSize => config.dynamic_shared + env.kernel.static_shared(),
    }
}
