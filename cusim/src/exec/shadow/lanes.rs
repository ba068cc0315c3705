//! Accesses of the lanes of one warp, which since Volta run each at its own pace: who wrote and who read each byte last,
//! and what orders lanes.
//!
//! A lane is ordered after another when both have come to something that orders memory since the other's access:
//! `bar.warp.sync`, a barrier of the block, a fence, or an access that acquires or releases. That both came to
//! the same one is not looked at, so that lanes that wait in groups of their own may hide a race, but none
//! is made up.

use super::{ALL, ATOMIC, Conflict, Shadow, Stamp};
use crate::exec::warp::lanes_of;
use crate::fault::FaultKind;

/// No lane: the write has been ordered before all that its lane does.
const NOBODY: u8 = u8::MAX;
/// More than one lane.
const SEVERAL: u8 = u8::MAX;

/// What orders the lanes of one warp.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// By lane: the last stamp before it last came to something that orders.
    floors: [u32; 32],
    /// Lanes that have not exited.
    live: u32,
    /// The least of their floors.
    pub(super) least: u32,
}

impl Order {
    /// A warp of which these lanes exist.
    pub(super) fn new(live: u32, now: u32) -> Self {
        Self {
            floors: [now; 32],
            live,
            least: now,
        }
    }

    /// All accesses were forgotten.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.live, 0);
    }

    fn meet(&mut self, lanes: u32, now: u32) {
        lanes_of(lanes).for_each(|lane| self.floors[lane] = now);
        self.least = now;
        if self.live & !lanes != 0 {
            let floors = lanes_of(self.live).map(|lane| self.floors[lane]);
            self.least = floors.min().unwrap_or(now);
        }
    }

    /// Those of `lanes` that have done nothing that orders since a stamp, or all where `lane` has not.
    fn unordered(&self, number: u32, lane: usize, lanes: u32) -> u32 {
        if number > self.floors[lane] {
            return lanes;
        }
        self.not_since(number, lanes)
    }

    /// Those of `lanes` that have done nothing that orders since a stamp.
    fn not_since(&self, number: u32, lanes: u32) -> u32 {
        let is_open = |lane: &usize| number > self.floors[*lane];
        let open = lanes_of(lanes).filter(is_open);
        open.fold(0, |mask, lane| mask | 1 << lane)
    }
}

impl Shadow {
    /// Lanes of a warp come to something that orders them.
    pub(in super::super) fn meet(&mut self, warp: usize, lanes: u32) {
        if self.race {
            self.lanes[warp].meet(lanes, self.now);
        }
    }

    /// All lanes of a warp that have not exited come to a barrier, or leave it.
    pub(in super::super) fn meet_all(&mut self, warp: usize) {
        self.meet(warp, self.lanes[warp].live);
    }

    /// Lanes exit: they are waited for no more, and are done with all they did.
    pub(in super::super) fn exit(&mut self, warp: usize, lanes: u32) {
        self.lanes[warp].live &= !lanes;
        self.meet(warp, lanes);
    }

    /// Of a write that is a warp's own: whether another lane did it, with nothing in between that orders the two.
    pub(super) fn check_own_write(
        &self,
        stamp: Stamp,
        lane: usize,
        index: usize,
        bytes: u32,
        what: &'static str,
    ) -> Result<(), Conflict> {
        let write = self.writes[index];
        let number = write >> 4;
        let are_atomic = stamp.is_atomic && self.writers[index] & ATOMIC != 0;
        if number == stamp.number || are_atomic {
            return Ok(());
        }
        let order = &self.lanes[stamp.warp];
        for byte in lanes_of(write & bytes & ALL) {
            let author = self.authors[index][byte];
            if author != NOBODY
                && usize::from(author) != lane
                && order.unordered(number, lane, 1 << author) != 0
            {
                return Err(self.lane_conflict(stamp, index, byte, number, author.into(), what));
            }
        }
        Ok(())
    }

    /// Of reads that are a warp's own: whether another lane did one, with nothing in between that orders the two.
    pub(super) fn check_own_read(
        &self,
        stamp: Stamp,
        lane: usize,
        index: usize,
        bytes: u32,
    ) -> Result<(), Conflict> {
        let read = self.reads[stamp.warp * self.granules + index];
        let number = read >> 4;
        let readers = self.readers_of(stamp.warp, index);
        for byte in lanes_of(read & bytes & ALL) {
            let others = readers[byte] & !(1 << lane);
            let others = self.lanes[stamp.warp].unordered(number, lane, others);
            if others != 0 {
                let other = others.trailing_zeros() as usize;
                let what = "writes shared memory that another lane of its warp reads, with nothing that orders them";
                return Err(self.lane_conflict(stamp, index, byte, number, other, what));
            }
        }
        Ok(())
    }

    #[cold]
    fn lane_conflict(
        &self,
        stamp: Stamp,
        index: usize,
        byte: usize,
        number: u32,
        lane: usize,
        what: &'static str,
    ) -> Conflict {
        Conflict {
            kind: FaultKind::Race,
            offset: index * 4 + byte,
            what,
            other: self.pc_of(number).map(|pc| (pc, stamp.warp)),
            lane: Some(lane),
        }
    }

    /// By byte of a granule, the lanes of a warp whose reads are not known to be ordered before all they do.
    fn readers_of(&self, warp: usize, index: usize) -> [u32; 4] {
        let at = warp * self.granules + index;
        match self.readers[at] {
            SEVERAL => self.parts[at],
            lane => [1 << lane; 4],
        }
    }

    /// Notes a read of some bytes by a lane, and forgets what is ordered before all that its lane does.
    pub(super) fn note_read(&mut self, stamp: Stamp, lane: usize, index: usize, bytes: u32) {
        let at = stamp.warp * self.granules + index;
        let read = self.reads[at];
        let number = read >> 4;
        let older = if number > stamp.handed { read & ALL } else { 0 };
        let order = &self.lanes[stamp.warp];
        let mut readers = [0; 4];
        if number > order.least {
            let noted = self.readers_of(stamp.warp, index);
            for byte in lanes_of(older) {
                readers[byte] = order.not_since(number, noted[byte]);
            }
        }
        for byte in lanes_of(bytes) {
            readers[byte] |= 1 << lane;
        }
        let all = bytes | older;
        self.reads[at] = stamp.number << 4 | all;
        if lanes_of(all).all(|byte| readers[byte] == 1 << lane) {
            self.readers[at] = lane as u8;
            return;
        }
        // That is seldom, so there is no room for it before.
        if self.parts.is_empty() {
            self.parts = vec![[0; 4]; self.readers.len()];
        }
        self.readers[at] = SEVERAL;
        self.parts[at] = readers;
    }

    /// Notes who wrote some bytes. `older` ones stay, with a new stamp.
    pub(super) fn note_author(
        &mut self,
        stamp: Stamp,
        lane: usize,
        index: usize,
        bytes: u32,
        older: u32,
    ) {
        let number = self.writes[index] >> 4;
        let order = &self.lanes[stamp.warp];
        let authors = &mut self.authors[index];
        for byte in lanes_of(older & !bytes) {
            let author = authors[byte];
            if author != NOBODY && order.not_since(number, 1 << author) == 0 {
                authors[byte] = NOBODY;
            }
        }
        for byte in lanes_of(bytes) {
            authors[byte] = lane as u8;
        }
    }
}
