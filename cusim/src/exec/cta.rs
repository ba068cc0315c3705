//! A block: its warps, shared memory and turns.

use super::address::Place;
use super::barrier::Barriers;
use super::count::Counters;
use super::profile::{Details, Tally};
use super::shadow::Shadow;
use super::warp::{Wait, Warp};
use super::{LaunchConfig, run};
use crate::fault::{Fault, FaultKind, Lanes};
use crate::memory::GlobalMemory;
use crate::program::op::{Initial, Special};
use crate::program::{Kernel, Program};

/// Instructions a warp runs before others have a turn, where it does not have to wait earlier: enough
/// that only a spin loop notices.
const TURN: u32 = 100_000;
/// Instructions of a turn that looking at another's flag counts for.
const LOOK: u32 = 1_000;
/// Instructions a block may run without changing any memory before it counts as spinning for ever, about
/// two seconds; each look at another's flag counts for [`LOOK`] of them.
const IDLE: u64 = 1 << 28;

/// The words that a memory instruction moves: by word of a lane's data, then lane.
pub(super) type Words = [[u32; 32]; 8];

/// The shared memory of a block.
pub(super) struct Shared {
    pub(super) data: Vec<u8>,
    pub(super) shadow: Shadow,
}

/// What every instruction can reach.
pub(super) struct Env<'a> {
    pub(super) program: &'a Program,
    pub(super) kernel: &'a Kernel,
    pub(super) memory: &'a GlobalMemory,
    pub(super) config: &'a LaunchConfig<'a>,
    pub(super) shared: Shared,
    pub(super) barriers: Barriers,
    pub(super) words: Box<Words>,
    pub(super) counters: Counters,
    /// Where the launch is profiled.
    pub(super) details: Option<Box<Details>>,
    /// Instructions executed when memory last changed.
    pub(super) last_change: u64,
    /// Looks at what others may change since then.
    pub(super) looks: u64,
    /// What is to be taken off the turn of the running warp, because it seems to spin.
    pub(super) penalty: u32,
    pub(super) cta: [u32; 3],
    /// Index of the block in the grid.
    pub(super) block: u64,
    /// Floating-point instructions are perturbed or checked.
    pub(super) watches_numbers: bool,
    /// Where the blocks of a cooperative launch meet; 0 in others.
    workspace: u64,
}

/// What came of a turn of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// All its threads have exited.
    Done,
    /// Some warp ran.
    Some,
    /// Warps ran, but have changed nothing for very long.
    Idle,
    /// Every warp waits.
    None,
}

/// A launch as one thread runs it, block after block; warps and shared memory are used again for every block.
pub(super) struct Launch<'a> {
    env: Env<'a>,
    warps: Vec<Warp>,
    threads: u32,
    random: u64,
    order: Vec<usize>,
}

impl<'a> Launch<'a> {
    pub(super) fn new(
        program: &'a Program,
        kernel: &'a Kernel,
        memory: &'a GlobalMemory,
        config: &'a LaunchConfig<'a>,
        workspace: u64,
    ) -> Self {
        let threads = config.block.iter().product::<u32>();
        let warps = threads.div_ceil(32) as usize;
        let bytes = (kernel.static_shared() + config.dynamic_shared) as usize;
        let shared = Shared {
            data: vec![0; bytes],
            shadow: Shadow::new(bytes, threads, config.options.checks.race),
        };
        let env = Env {
            program,
            kernel,
            memory,
            config,
            shared,
            barriers: Barriers::default(),
            words: Box::new([[0; 32]; 8]),
            counters: Counters::default(),
            details: config
                .options
                .profile
                .then(|| Box::new(Details::new(kernel.code.len()))),
            last_change: 0,
            looks: 0,
            penalty: 0,
            cta: [0; 3],
            block: 0,
            watches_numbers: config.options.perturb || config.options.checks.arithmetic,
            workspace,
        };
        let mut warps: Vec<Warp> = (0..warps).map(|index| Warp::new(index, kernel)).collect();
        for warp in &mut warps {
            set_constants(warp, &env, |initial| !varies(initial));
        }
        Self {
            env,
            warps,
            threads,
            random: 0,
            order: Vec::new(),
        }
    }

    /// Blocks that run at the same time hand over what they know through the same atomic operations.
    pub(super) fn share_with(&mut self, other: &Self) {
        self.env.shared.shadow.share_with(&other.env.shared.shadow);
    }

    pub(super) fn into_tally(self) -> Tally {
        Tally {
            counters: self.env.counters,
            details: self.env.details,
        }
    }

    /// Starts a block.
    pub(super) fn start(&mut self, block: u64) {
        self.env.cta = self.env.config.cta(block);
        self.env.block = block;
        // The schedule depends on the block, not on which thread runs it after which others.
        self.random = self.env.config.options.seed;
        self.random = self.next_random() ^ block;
        self.env.shared.shadow.clear(block as u32);
        self.env.barriers = Barriers::default();
        self.env.changed();
        for warp in &mut self.warps {
            let first = warp.index as u32 * 32;
            let lanes = (self.threads - first).min(32);
            warp.start(u32::MAX >> (32 - lanes));
            set_constants(warp, &self.env, varies);
        }
        self.order.clear();
        self.order.extend(0..self.warps.len());
    }

    /// Lets every warp that can run have its turn.
    pub(super) fn turn(&mut self) -> Result<Progress, Box<Fault>> {
        let turn = self.schedule();
        let mut progress = Progress::None;
        for at in 0..self.order.len() {
            let index = self.order[at];
            if self.warps[index].can_run() {
                run::run(&mut self.warps[index], &mut self.env, turn)?;
                progress = Progress::Some;
                self.release();
            }
        }
        let limit = self.env.config.options.max_instructions;
        if limit.is_some_and(|limit| self.env.counters.instructions > limit) {
            return Err(self.deadlock("the launch runs on beyond its limit"));
        }
        Ok(match progress {
            _ if self.warps.iter().all(Warp::is_done) => Progress::Done,
            Progress::Some if self.env.idle() > IDLE => Progress::Idle,
            progress => progress,
        })
    }

    /// The fault of a block whose warps all wait.
    pub(super) fn waits(&self) -> Box<Fault> {
        self.deadlock("all warps wait and none can go on")
    }

    /// The fault of a block that changes nothing.
    pub(super) fn spins(&self) -> Box<Fault> {
        self.deadlock("the block runs without end and changes nothing")
    }

    /// The order of warps and how long each may run; seed 0 keeps the order and lets each run on.
    fn schedule(&mut self) -> u32 {
        let seed = self.env.config.options.seed;
        for index in 0..self.warps.len() {
            // Lanes that wait for others of their warp in a loop must let them run.
            let groups = self.warps[index].groups.len();
            let warp_random = if groups > 1 { self.next_random() } else { 0 };
            let warp = &mut self.warps[index];
            let chosen = warp.groups.get(warp_random as usize % groups.max(1));
            let lane = chosen.map(|group| group.mask.trailing_zeros());
            warp.preferred = lane.filter(|_| groups > 1);
        }
        if seed == 0 {
            return TURN;
        }
        for last in (1..self.order.len()).rev() {
            let other = self.next_random() % (last as u64 + 1);
            self.order.swap(last, other as usize);
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
        if self.env.barriers.is_idle() {
            return;
        }
        let unfinished = self.warps.iter().filter(|warp| !warp.is_done()).count();
        while let Some((id, mut barrier)) = self.env.barriers.take_complete(unfinished as u32) {
            self.env.changed();
            // Who waited did nothing since it arrived: what it had done then is all up to now.
            let now = self.env.shared.shadow.now();
            barrier
                .waiting
                .iter()
                .for_each(|&index| barrier.clocks.own[index] = now);
            for &index in &barrier.waiting {
                let shadow = &mut self.env.shared.shadow;
                shadow.acquire(index, &barrier.clocks);
                shadow.meet_all(index);
                let kernel = self.env.kernel;
                super::barrier::leave(&mut self.warps[index], kernel, id, &barrier);
            }
        }
    }

    fn deadlock(&self, message: &str) -> Box<Fault> {
        let site = |pc: u32| self.env.program.site(self.env.kernel, pc as usize);
        let mut notes = Vec::new();
        let mut first = None;
        for warp in &self.warps {
            if warp.is_done() {
                notes.push(format!("warp {} has exited", warp.index));
            }
            for group in &warp.groups {
                let (lanes, site) = (Lanes(group.mask), site(group.pc));
                let what = match group.wait {
                    Wait::Barrier(id) => format!("wait at barrier {id} in {site}"),
                    Wait::Warp(id) => format!("wait for their warp at barrier {id} in {site}"),
                    Wait::Lanes => format!("wait for other lanes in {site}"),
                    Wait::Nothing => format!("run in {site}"),
                };
                if !matches!(group.wait, Wait::Nothing) {
                    first = first.or(Some((warp.index, *group)));
                }
                notes.push(format!("warp {}, {lanes}: {what}", warp.index));
            }
        }
        let running = || {
            let warp = self.warps.iter().find(|warp| !warp.is_done())?;
            Some((warp.index, *warp.groups.first()?))
        };
        let (warp, pc, lanes) = first
            .or_else(running)
            .map_or((0, 0, 0), |(warp, group)| (warp, group.pc, group.mask));
        notes.extend(self.env.barriers.describe());
        Box::new(Fault {
            kind: FaultKind::Deadlock,
            kernel: self.env.kernel.name().to_owned(),
            message: message.to_owned(),
            site: site(pc),
            cta: self.env.cta,
            warp: warp as u32,
            lanes,
            address: None,
            other: None,
            notes,
        })
    }
}

impl Env<'_> {
    /// Notes that memory changed, so that the block is getting somewhere.
    #[inline(always)]
    pub(super) fn changed(&mut self) {
        self.last_change = self.counters.instructions;
        self.looks = 0;
    }

    /// For how many instructions nothing has changed.
    fn idle(&self) -> u64 {
        self.counters.instructions - self.last_change + self.looks * u64::from(LOOK)
    }

    /// Notes that lanes looked at what others may change, and that nothing changed by it: if they are
    /// in a loop, it had better be others' turn soon.
    pub(super) fn looked(&mut self) {
        self.penalty += LOOK;
        self.looks += 1;
    }

    /// A fault of some lanes at an instruction.
    #[cold]
    pub(super) fn fault(
        &self,
        kind: FaultKind,
        message: impl Into<String>,
        warp: usize,
        pc: usize,
        lanes: u32,
    ) -> Box<Fault> {
        Box::new(Fault {
            kind,
            kernel: self.kernel.name().to_owned(),
            message: message.into(),
            site: self.program.site(self.kernel, pc),
            cta: self.cta,
            warp: warp as u32,
            lanes,
            address: None,
            other: None,
            notes: Vec::new(),
        })
    }

    /// No group of a warp can go on.
    #[cold]
    pub(super) fn stuck(&self, warp: &Warp) -> Box<Fault> {
        let group = warp.groups.first();
        let (pc, lanes) = group.map_or((0, 0), |group| (group.pc as usize, group.mask));
        let message = "lanes of a warp wait for each other at different instructions";
        let mut fault = self.fault(FaultKind::Deadlock, message, warp.index, pc, lanes);
        for group in &warp.groups {
            let site = self.program.site(self.kernel, group.pc as usize);
            let verb = if group.mask.count_ones() == 1 {
                "waits"
            } else {
                "wait"
            };
            fault
                .notes
                .push(format!("{} {verb} in {site}", Lanes(group.mask)));
        }
        if warp.live != u32::MAX {
            let gone = Lanes(!warp.live);
            fault.notes.push(format!("exited or never existed: {gone}"));
        }
        fault
    }

    /// Bytes of a place, for reports and bounds.
    pub(super) fn size_of(&self, place: Place) -> u64 {
        match place {
            Place::Shared => self.shared.data.len() as u64,
            Place::Local => self.kernel.local_bytes().into(),
            Place::Param => self.config.params.len() as u64,
            Place::Global | Place::Nowhere => 0,
        }
    }
}

/// True for what is not the same in every block.
fn varies(initial: Initial) -> bool {
    matches!(initial, Initial::Special(Special::Ctaid(_) | Special::SmId))
}

/// Sets those constants and special registers that are asked for.
fn set_constants(warp: &mut Warp, env: &Env<'_>, which: impl Fn(Initial) -> bool) {
    for &(slot, initial) in &env.kernel.initial_w {
        if which(initial) {
            let lanes = lanes_of_initial(initial, warp.index, env);
            warp.w[slot as usize] = lanes.map(|value| value as u32);
        }
    }
    for &(slot, initial) in &env.kernel.initial_d {
        if which(initial) {
            warp.d[slot as usize] = lanes_of_initial(initial, warp.index, env);
        }
    }
}

fn lanes_of_initial(initial: Initial, warp: usize, env: &Env<'_>) -> [u64; 32] {
    match initial {
        Initial::Value(value) => [value; 32],
        Initial::Sink => [0; 32],
        Initial::GlobalAddress(index, offset) => {
            let addresses = env.config.global_addresses;
            let base = addresses.get(index as usize).copied().unwrap_or(0);
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
        // Blocks are dealt to multiprocessors in turn.
        Special::SmId => (env.block % u64::from(config.arch.multiprocessors)) as u32,
        Special::NSmId => config.arch.multiprocessors,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
        Special::LaneMaskGe => !((1 << lane) - 1),
        Special::DynamicSharedSize => config.dynamic_shared,
        Special::TotalSharedSize => config.dynamic_shared + env.kernel.static_shared(),
        Special::Workspace(half) => (env.workspace >> (32 * half)) as u32,
        Special::Constant(value) => value,
    }
}
