//! A warp: its registers, and which of its lanes are where.

use super::copies::Copies;
use crate::memory::Bits;
use crate::program::Kernel;
use crate::program::op::{Lanes, Slot, Wide};
use crate::program::simd::vectorized;

/// Lanes of a warp that are at the same instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) wait: Wait,
}

/// What the lanes of a group wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Lanes that the instruction needs and that are elsewhere.
    Lanes,
    /// The rest of the warp at this barrier, at whatever instruction.
    Warp(u8),
    /// Other warps at this barrier.
    Barrier(u8),
}

pub(super) struct Warp {
    pub(super) index: usize,
    pub(super) p: Vec<u32>,
    pub(super) w: Vec<Lanes>,
    pub(super) d: Vec<Wide>,
    /// The carry of every lane.
    pub(super) carry: u32,
    pub(super) groups: Vec<Group>,
    /// Lanes that have not exited.
    pub(super) live: u32,
    /// The lane whose group runs first in the next turn, whatever its rank.
    pub(super) preferred: Option<u32>,
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
            carry: 0,
            groups: Vec::new(),
            live: 0,
            preferred: None,
            copies: Copies::default(),
            local: vec![0; local],
            local_written: Bits::new(local),
            hint: 0,
        }
    }

    /// Puts lanes `mask` at the first instruction.
    pub(super) fn start(&mut self, mask: u32) {
        self.groups.clear();
        self.groups.push(Group {
            pc: 0,
            mask,
            wait: Wait::Nothing,
        });
        self.live = mask;
        self.preferred = None;
        self.copies = Copies::default();
        self.local_written.clear();
    }

    /// True when every lane has exited.
    pub(super) fn is_done(&self) -> bool {
        self.groups.is_empty()
    }

    /// True when some lanes wait for nothing.
    pub(super) fn can_run(&self) -> bool {
        self.groups.iter().any(|group| group.wait == Wait::Nothing)
    }

    /// True when some lanes wait for other warps.
    pub(super) fn is_at_barrier(&self) -> bool {
        let waits = |group: &Group| matches!(group.wait, Wait::Barrier(_));
        self.groups.iter().any(waits)
    }

    /// The group to run: of those that do not wait, that of lowest rank, or the preferred one.
    pub(super) fn pick(&self, ranks: &[u32]) -> Option<usize> {
        if let [group] = self.groups[..] {
            return (group.wait == Wait::Nothing).then_some(0);
        }
        let rank = |group: &Group| {
            let preferred = self
                .preferred
                .is_some_and(|lane| group.mask >> lane & 1 == 1);
            let rank = ranks.get(group.pc as usize).copied().unwrap_or(u32::MAX);
            (!preferred, rank)
        };
        let ready = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.wait == Wait::Nothing);
        ready
            .min_by_key(|(_, group)| rank(group))
            .map(|(index, _)| index)
    }

    /// Adds lanes at an instruction, joining those that are there and still need others.
    pub(super) fn add(&mut self, pc: u32, mask: u32) {
        let mut all = mask;
        self.groups.retain(|group| {
            let joins = group.pc == pc && !matches!(group.wait, Wait::Barrier(_));
            if joins {
                all |= group.mask;
            }
            !joins
        });
        self.groups.push(Group {
            pc,
            mask: all,
            wait: Wait::Nothing,
        });
    }

    /// Ends lanes. Whoever waited for lanes must look again: those that have exited are waited for
    /// no more.
    pub(super) fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        for group in &mut self.groups {
            group.mask &= !mask;
            if matches!(group.wait, Wait::Lanes | Wait::Warp(_)) {
                group.wait = Wait::Nothing;
            }
        }
        self.groups.retain(|group| group.mask != 0);
    }

    /// The lanes whose predicate holds.
    #[inline(always)]
    pub(super) fn predicate(&self, (slot, negated): (Slot, bool)) -> u32 {
        let value = self.p[slot as usize];
        if negated { !value } else { value }
    }

    /// Keeps results of active lanes.
    #[inline(always)]
    pub(super) fn put_w(&mut self, slot: Slot, value: &Lanes, mask: u32) {
        let dest = &mut self.w[slot as usize];
        if mask == u32::MAX {
            *dest = *value;
        } else {
            vectorized(|| {
                for (lane, (dest, value)) in dest.iter_mut().zip(value).enumerate() {
                    *dest = if mask >> lane & 1 == 1 { *value } else { *dest };
                }
            });
        }
    }

    /// Keeps results of active lanes.
    #[inline(always)]
    pub(super) fn put_d(&mut self, slot: Slot, value: &Wide, mask: u32) {
        let dest = &mut self.d[slot as usize];
        if mask == u32::MAX {
            *dest = *value;
        } else {
            vectorized(|| {
                for (lane, (dest, value)) in dest.iter_mut().zip(value).enumerate() {
                    *dest = if mask >> lane & 1 == 1 { *value } else { *dest };
                }
            });
        }
    }

    /// Keeps results of active lanes.
    #[inline(always)]
    pub(super) fn put_p(&mut self, slot: Slot, value: u32, mask: u32) {
        let dest = &mut self.p[slot as usize];
        *dest = *dest & !mask | value & mask;
    }
}

/// The lanes of a mask in order.
#[inline(always)]
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
