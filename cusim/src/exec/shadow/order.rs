//! What warps know of each other: clocks, and how barriers, fences and atomic operations hand them on,
//! within a block and between blocks.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::{LAST, Shadow};
use crate::memory::GLOBAL_BASE;
use crate::program::op::Scope;

/// The number known of every warp, by block. Most often it is of none, or the same for all warps of a block.
pub(super) type Foreign = Rc<BTreeMap<u32, Rc<Vec<u32>>>>;

/// An address as all blocks see it, or as one block does.
type Place = (Option<u32>, u64);

/// What atomic operations hand over. Blocks that run at the same time share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Released(Rc<RefCell<HashMap<Place, Foreign>>>);

/// What the last fence of a warp made ready to hand over: within its block, and to all.
#[derive(Debug, Clone, Default)]
pub(super) struct Fenced {
    narrow: Option<Clocks>,
    wide: Option<Clocks>,
}

/// What a warp knows, to be handed over.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Clocks {
    /// The number known of every warp of its block.
    pub(in super::super) own: Vec<u32>,
    foreign: Foreign,
}

impl Clocks {
    /// Takes over what others know.
    pub(in super::super) fn join(&mut self, other: &Clocks) {
        join(&mut self.own, &other.own);
        join_foreign(&mut self.foreign, &other.foreign);
    }
}

fn join(own: &mut Vec<u32>, other: &[u32]) {
    if own.len() < other.len() {
        own.resize(other.len(), 0);
    }
    for (own, &other) in own.iter_mut().zip(other) {
        *own = (*own).max(other);
    }
}

fn join_foreign(own: &mut Foreign, other: &Foreign) {
    if Rc::ptr_eq(own, other) || other.is_empty() {
        return;
    }
    if own.is_empty() {
        *own = other.clone();
        return;
    }
    let own = Rc::make_mut(own);
    for (&block, clocks) in other.iter() {
        let known = own.entry(block).or_default();
        if !Rc::ptr_eq(known, clocks) {
            join(Rc::make_mut(known), clocks);
        }
    }
}

impl Shadow {
    /// The last stamp given.
    pub(in super::super) fn now(&self) -> u32 {
        self.now
    }

    /// Hands over to, and takes over from, another block through atomic operations.
    pub(in super::super) fn share_with(&mut self, other: &Shadow) {
        self.released = other.released.clone();
    }

    /// Forgets what was known in the last block; what went through global memory stays.
    pub(super) fn leave_block(&mut self) {
        let mut released = self.released.0.borrow_mut();
        released.retain(|(block, _), _| block.is_none());
        self.fenced.fill(Fenced::default());
        self.offered.fill(Clocks::default());
        self.foreign.fill(Foreign::default());
    }

    /// Whether an access of a warp, of this block or another, is known to `warp` of this one.
    pub(in super::super) fn knows(&self, warp: usize, block: u32, of: usize, number: u32) -> bool {
        if block == self.block {
            return self.renewed || number <= self.known[warp * self.warps + of];
        }
        let clocks = self.foreign[warp].get(&block);
        let known = clocks.and_then(|clocks| clocks.get(of));
        known.is_some_and(|&known| number <= known)
    }

    /// What a warp that arrives somewhere hands over: what it knows, and all it has done itself.
    pub(in super::super) fn clocks_of(&mut self, warp: usize) -> Clocks {
        self.handed[warp] = self.now;
        let mut own = self.known[warp * self.warps..(warp + 1) * self.warps].to_vec();
        own[warp] = self.now;
        Clocks {
            own,
            foreign: self.foreign[warp].clone(),
        }
    }

    /// `warp` takes over what others handed over.
    pub(in super::super) fn acquire(&mut self, warp: usize, clocks: &Clocks) {
        let own = &mut self.known[warp * self.warps..(warp + 1) * self.warps];
        for (own, &other) in own.iter_mut().zip(&clocks.own) {
            *own = (*own).max(other);
        }
        let others = own.iter().enumerate().filter(|(other, _)| *other != warp);
        let floor = others.map(|(_, &known)| known).min();
        self.floors[warp] = floor.unwrap_or(LAST);
        join_foreign(&mut self.foreign[warp], &clocks.foreign);
    }

    /// A fence: what was done before it goes with later atomic operations, and what earlier ones
    /// found is ordered from now on. Only a wide one reaches other blocks.
    pub(in super::super) fn fence(&mut self, warp: usize, lanes: u32, is_wide: bool) {
        self.meet(warp, lanes);
        let clocks = self.clocks_of(warp);
        if is_wide {
            self.fenced[warp].wide = Some(clocks.clone());
        }
        self.fenced[warp].narrow = Some(clocks);
        let mut offered = std::mem::take(&mut self.offered[warp]);
        if is_wide {
            self.acquire(warp, &offered);
        } else {
            let foreign = std::mem::take(&mut offered.foreign);
            self.acquire(warp, &offered);
            offered.foreign = foreign;
        }
        self.offered[warp] = offered;
    }

    /// An atomic operation, or a load or store that is ordered like one, at an address of any memory.
    pub(in super::super) fn synchronize(
        &mut self,
        warp: usize,
        lane: usize,
        (address, scope): (u64, Scope),
        acquires: bool,
        releases: bool,
    ) {
        if acquires || releases {
            self.meet(warp, 1 << lane);
        }
        let own = (Some(self.block), address);
        let is_wide = scope == Scope::Device && address >= GLOBAL_BASE;
        let all = is_wide.then_some((None, address));
        for place in all.into_iter().chain([own]) {
            if let Some(clocks) = self.found(place) {
                self.offered[warp].join(&clocks);
                if acquires {
                    self.acquire(warp, &clocks);
                }
            }
        }
        if releases {
            let clocks = self.clocks_of(warp);
            for place in all.into_iter().chain([own]) {
                self.hand_over(place, &clocks);
            }
            return;
        }
        let Fenced { narrow, wide } = self.fenced[warp].clone();
        if let (Some(place), Some(clocks)) = (all, wide) {
            self.hand_over(place, &clocks);
        }
        if let Some(clocks) = narrow {
            self.hand_over(own, &clocks);
        }
    }

    /// What was handed over at a place.
    fn found(&self, place: Place) -> Option<Clocks> {
        let released = self.released.0.borrow();
        let blocks = released.get(&place)?;
        Some(Clocks {
            own: blocks
                .get(&self.block)
                .map_or_else(Vec::new, |own| own.to_vec()),
            foreign: blocks.clone(),
        })
    }

    fn hand_over(&self, place: Place, clocks: &Clocks) {
        let mut released = self.released.0.borrow_mut();
        let blocks = released.entry(place).or_default();
        join_foreign(blocks, &clocks.foreign);
        let own = Rc::make_mut(blocks).entry(self.block).or_default();
        join(Rc::make_mut(own), &clocks.own);
    }
}
