//! A warp: its registers, and which of its lanes are where.

use super::copies::Copies;
use crate::memory::Bits;
use crate::program::Kernel;
use crate::program::op::{Lanes, Slot, Wide};

/// Lanes of a warp that are at the same instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) mask: u32,
    /// At an instruction that needs lanes which are elsewhere.
    pub(super) waiting: bool,
}

/// Why a warp does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// At this barrier, with the instruction it stands at.
    Barrier(usize, usize),
    Done,
}

pub(super) struct Warp {
    pub(super) index: usize,
    pub(super) p: Vec<u32>,
    pub(super) w: Vec<Lanes>,
    pub(super) d: Vec<Wide>,
    pub(super) groups: Vec<Group>,
    /// Lanes that have not exited.
    pub(super) live: u32,
    pub(super) state: State,
    pub(super) copies: Copies,
    /// Local memory, lane after lane.
    pub(super) local: Vec<u8>,
    pub(super) local_written: Bits,
    /// Where the last global access was found.
    pub(super) hint: usize,
}

impl Warp {
    pub(super) fn new(index: usize, kernel: &Kernel) -> Self {
        let [p, w, d] = kernel.slots.map(|count| count as usize);
        let local = kernel.local_bytes() as usize * 32;
        Self {
            index,
            p: vec![0; p],
            w: vec![[0; 32]; w],
            d: vec![[0; 32]; d],
            groups: Vec::new(),
            live: 0,
            state: State::Done,
            copies: Copies::default(),
            local: vec![0; local],
            local_written: Bits::new(local),
            hint: 0,
        }
    }

    /// Puts lanes `mask` at the first instruction.
    pub(super) fn start(&mut self, mask: u32) {
        self.groups = vec![Group {
            pc: 0,
            mask,
            waiting: false,
        }];
        self.live = mask;
        self.state = State::Ready;
        self.copies = Copies::default();
        self.local_written.clear();
    }

    /// The group to run: of those that do not wait, that of lowest rank.
    pub(super) fn pick(&self, ranks: &[u32]) -> Option<usize> {
        let rank = |group: &Group| ranks.get(group.pc as usize).copied().unwrap_or(u32::MAX);
        let ready = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| !group.waiting);
        ready
            .min_by_key(|(_, group)| rank(group))
            .map(|(index, _)| index)
    }

    /// Joins the group at `index` with others at the same instruction.
    pub(super) fn merge(&mut self, index: usize) {
        let Group { pc, .. } = self.groups[index];
        let mut mask = 0;
        self.groups.retain(|group| {
            let here = group.pc == pc;
            if here {
                mask |= group.mask;
            }
            !here
        });
        self.groups.push(Group {
            pc,
            mask,
            waiting: false,
        });
    }

    /// Ends lanes. Whoever waited must look again: lanes that have exited are waited for no more.
    pub(super) fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        for group in &mut self.groups {
            group.mask &= !mask;
            group.waiting = false;
        }
        self.groups.retain(|group| group.mask != 0);
        if self.groups.is_empty() {
            self.state = State::Done;
        }
    }

    /// The lanes whose predicate holds.
    #[inline]
    pub(super) fn predicate(&self, (slot, negated): (Slot, bool)) -> u32 {
        let value = self.p[slot as usize];
        if negated { !value } else { value }
    }

    /// Keeps results of active lanes.
    #[inline]
    pub(super) fn put_w(&mut self, slot: Slot, value: &Lanes, mask: u32) {
        let dest = &mut self.w[slot as usize];
        if mask == u32::MAX {
            *dest = *value;
        } else {
            for (lane, (dest, value)) in dest.iter_mut().zip(value).enumerate() {
                *dest = if mask >> lane & 1 == 1 { *value } else { *dest };
            }
        }
    }

    /// Keeps results of active lanes.
    #[inline]
    pub(super) fn put_d(&mut self, slot: Slot, value: &Wide, mask: u32) {
        let dest = &mut self.d[slot as usize];
        if mask == u32::MAX {
            *dest = *value;
        } else {
            for (lane, (dest, value)) in dest.iter_mut().zip(value).enumerate() {
                *dest = if mask >> lane & 1 == 1 { *value } else { *dest };
            }
        }
    }

    /// Keeps results of active lanes.
    #[inline]
    pub(super) fn put_p(&mut self, slot: Slot, value: u32, mask: u32) {
        let dest = &mut self.p[slot as usize];
        *dest = *dest & !mask | value & mask;
    }
}

/// The lanes of a mask in order.
pub(super) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros();
        (lane < 32).then(|| {
            rest &= rest - 1;
            lane as usize
        })
    })
}
