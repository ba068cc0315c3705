//! What is known of every byte of shared memory: written or not, still being copied to or not, and
//! who accessed it last.
//!
//! Races are found with vector clocks as in Flanagan and Freund, "FastTrack", 2009, with the warp as the
//! thread. The clock is the number of accesses the block has made: each access instruction gets the
//! next number, its stamp. A barrier tells all that leave it the number at which each of the others
//! arrived; an access is ordered after another when the other's stamp is not above the number known
//! of its warp. Accesses are kept by granules of four bytes, with a bit for each byte. What orders the lanes
//! of one warp is in `lanes`.

mod lanes;
mod order;

pub(super) use order::Clocks;
use order::Released;

use crate::fault::FaultKind;

/// All four bytes of a granule.
const ALL: u32 = 0xf;
/// In `state`: the low bits are bytes that were written, the high ones bytes that a copy in flight will
/// write.
const WRITTEN: u8 = 0x0f;
const PENDING: u8 = 0xf0;
/// In `writers`: the write was atomic.
const ATOMIC: u8 = 0x80;
/// Stamps take 28 bits. Above this number a new block starts them afresh.
const LATE: u32 = 1 << 27;
const LAST: u32 = (1 << 28) - 1;

/// What is wrong with a read, and a write, of what another lane or another warp writes.
const READS: [&str; 2] = [
    "reads shared memory that another lane of its warp writes, with nothing that orders them",
    "reads shared memory that another warp writes, with nothing that orders them",
];
const WRITES: [&str; 2] = [
    "writes shared memory that another lane of its warp writes, with nothing that orders them",
    "writes shared memory that another warp writes, with nothing that orders them",
];

/// The shadow of one block's shared memory.
pub(super) struct Shadow {
    /// By granule: bytes written and bytes pending.
    state: Vec<u8>,
    /// By granule: stamp of the last write, and its bytes in the low four bits.
    writes: Vec<u32>,
    /// By granule: the warp of the last write.
    writers: Vec<u8>,
    /// By granule, then byte: the lane of the last write.
    authors: Vec<[u8; 4]>,
    /// By warp, then granule: stamp and bytes of the last read.
    reads: Vec<u32>,
    /// By warp, then granule: the lane that alone did the reads, or `SEVERAL`, which `parts` has by byte.
    readers: Vec<u8>,
    parts: Vec<[u32; 4]>,
    granules: usize,
    warps: usize,
    /// The last stamp given.
    now: u32,
    /// The last stamp of earlier blocks, and the instruction of each later one.
    before: u32,
    pcs: Vec<u32>,
    /// The number known of every warp to every warp: by knower, then known.
    known: Vec<u32>,
    /// The least of what each warp knows of the others.
    floors: Vec<u32>,
    /// The last stamp before each warp last handed over what it knows.
    handed: Vec<u32>,
    /// What orders the lanes of each warp.
    lanes: Vec<lanes::Order>,
    threads: u32,
    /// The block, and what each warp knows of other blocks.
    block: u32,
    foreign: Vec<order::Foreign>,
    /// What atomic operations hand over, by address.
    released: Released,
    /// By warp: what its last fence made ready to hand over, and what a fence will take over.
    fenced: Vec<order::Fenced>,
    offered: Vec<Clocks>,
    race: bool,
    /// Stamps of this block started again, so that earlier ones say nothing.
    renewed: bool,
}

/// An access to shared memory that is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) kind: FaultKind,
    /// The byte.
    pub(super) offset: usize,
    pub(super) what: &'static str,
    /// The other access: instruction and warp.
    pub(super) other: Option<(usize, usize)>,
    /// Its lane, in a race within a warp.
    pub(super) lane: Option<usize>,
}

/// One access instruction of a warp.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    warp: usize,
    number: u32,
    /// Ordered before it, whichever lane it is of, is everything up to this stamp.
    floor: u32,
    /// Ordered before it, where it is of the same warp, is everything up to this stamp.
    least: u32,
    /// Since this stamp its warp has handed over nothing: accesses to a granule are as one.
    handed: u32,
    pub(super) is_atomic: bool,
}

impl Stamp {
    /// The number of the access.
    pub(super) fn number(self) -> u32 {
        self.number
    }
}

impl Shadow {
    pub(super) fn new(bytes: usize, threads: u32, race: bool) -> Self {
        let warps = threads.div_ceil(32) as usize;
        let granules = bytes.div_ceil(4);
        let (writes, reads) = if race {
            (granules, granules * warps)
        } else {
            (0, 0)
        };
        Self {
            state: vec![0; granules],
            writes: vec![0; writes],
            writers: vec![0; writes],
            authors: vec![[0; 4]; writes],
            reads: vec![0; reads],
            readers: vec![0; reads],
            parts: Vec::new(),
            granules,
            warps,
            now: 0,
            before: 0,
            pcs: Vec::new(),
            known: vec![0; warps * warps],
            floors: vec![0; warps],
            handed: vec![0; warps],
            lanes: Vec::new(),
            threads,
            block: 0,
            foreign: vec![order::Foreign::default(); warps],
            released: Released::default(),
            fenced: vec![order::Fenced::default(); warps],
            offered: vec![Clocks::default(); warps],
            race,
            renewed: false,
        }
    }

    /// Starts a block: nothing in shared memory is written, and all that was done there before is ordered.
    pub(super) fn clear(&mut self, block: u32) {
        self.block = block;
        self.state.fill(0);
        self.pcs.clear();
        if self.now > LATE {
            self.forget();
        }
        self.before = self.now;
        self.known.fill(self.now);
        self.floors.fill(self.now);
        self.handed.fill(self.now);
        self.lanes.clear();
        self.lanes
            .extend((0..self.threads).step_by(32).map(|first| {
                let lanes = (self.threads - first).min(32);
                lanes::Order::new(u32::MAX >> (32 - lanes), self.now)
            }));
        self.leave_block();
        self.renewed = false;
    }

    /// Forgets all accesses, so that stamps can start again.
    fn forget(&mut self) {
        self.writes.fill(0);
        self.reads.fill(0);
        self.known.fill(0);
        self.floors.fill(0);
        self.handed.fill(0);
        self.lanes.iter_mut().for_each(lanes::Order::forget);
        self.pcs.clear();
        (self.now, self.before) = (0, 0);
        self.renewed = true;
    }

    /// The next access instruction of a warp.
    pub(super) fn stamp(&mut self, warp: usize, pc: usize, is_atomic: bool) -> Stamp {
        if self.now == LAST {
            self.forget();
        }
        self.now += 1;
        if self.race {
            self.pcs.push(pc as u32);
        }
        let lanes = &self.lanes[warp];
        Stamp {
            warp,
            number: self.now,
            floor: self.floors[warp].min(lanes.least),
            least: lanes.least,
            handed: self.handed[warp],
            is_atomic,
        }
    }

    /// Notes a read of `len` bytes at `offset`.
    #[inline(always)]
    pub(super) fn read(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
        init: bool,
    ) -> Result<(), Conflict> {
        let is_noted = match len {
            4 => self.read_words::<1>(stamp, lane, offset),
            8 => self.read_words::<2>(stamp, lane, offset),
            16 => self.read_words::<4>(stamp, lane, offset),
            _ => false,
        };
        if is_noted {
            return Ok(());
        }
        self.read_granules(stamp, lane, offset, len, init)
    }

    /// Notes a read of `N` whole words where it is plain that nothing is wrong; false when it is not.
    #[inline(always)]
    fn read_words<const N: usize>(&mut self, stamp: Stamp, lane: usize, offset: usize) -> bool {
        if !offset.is_multiple_of(4) || !self.race || stamp.is_atomic {
            return false;
        }
        let first = offset / 4;
        let own = stamp.warp * self.granules + first;
        let (Some(states), Some(writes), Some(reads), Some(readers)) = (
            self.state[first..].first_chunk::<N>(),
            self.writes[first..].first_chunk::<N>(),
            self.reads[own..].first_chunk_mut::<N>(),
            self.readers[own..].first_chunk_mut::<N>(),
        ) else {
            return false;
        };
        if *states != [WRITTEN; N] || latest(0, writes) > (stamp.floor << 4 | ALL) {
            return false;
        }
        // What other lanes read since they last met must stay.
        let known = stamp.least << 4 | ALL;
        let mut others = false;
        for (&read, &reader) in reads.iter().zip(&*readers) {
            others |= read > known && reader != lane as u8;
        }
        if others {
            return false;
        }
        *reads = [stamp.number << 4 | ALL; N];
        *readers = [lane as u8; N];
        true
    }

    fn read_granules(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
        init: bool,
    ) -> Result<(), Conflict> {
        for (index, bytes) in granules(offset, len) {
            let state = self.state[index];
            self.check_pending(
                index,
                bytes,
                "reads the target of an asynchronous copy that was not waited for",
            )?;
            let missing = bytes & !u32::from(state & WRITTEN);
            if init && missing != 0 {
                return Err(Conflict {
                    kind: FaultKind::Uninitialized,
                    offset: index * 4 + missing.trailing_zeros() as usize,
                    what: "reads shared memory that was never written",
                    other: None,
                    lane: None,
                });
            }
            if !self.race {
                continue;
            }
            self.check_last_write(stamp, lane, index, bytes, READS)?;
            if !stamp.is_atomic {
                self.note_read(stamp, lane, index, bytes);
            }
        }
        Ok(())
    }

    /// Notes a write of `len` bytes at `offset`.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        if self.write_plainly(stamp, lane, offset, len, WRITTEN) {
            return Ok(());
        }
        self.write_granules(stamp, lane, offset, len)
    }

    fn write_granules(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        for (index, bytes) in granules(offset, len) {
            self.check_write(stamp, lane, index, bytes)?;
            self.set_write(stamp, lane, index, bytes);
        }
        Ok(())
    }

    /// Notes a write where it is plain that nothing is wrong; false when it is not.
    #[inline(always)]
    fn write_plainly(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
        state: u8,
    ) -> bool {
        match len {
            4 => self.write_words::<1>(stamp, lane, offset, state),
            8 => self.write_words::<2>(stamp, lane, offset, state),
            16 => self.write_words::<4>(stamp, lane, offset, state),
            _ => false,
        }
    }

    /// As [`Shadow::write_plainly`], of `N` whole words.
    #[inline(always)]
    fn write_words<const N: usize>(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        state: u8,
    ) -> bool {
        if !offset.is_multiple_of(4) || !self.race || stamp.is_atomic {
            return false;
        }
        let first = offset / 4;
        let (Some(states), Some(writes), Some(writers), Some(authors)) = (
            self.state[first..].first_chunk_mut::<N>(),
            self.writes[first..].first_chunk_mut::<N>(),
            self.writers[first..].first_chunk_mut::<N>(),
            self.authors[first..].first_chunk_mut::<N>(),
        ) else {
            return false;
        };
        let mut last = latest(0, writes);
        for reads in self.reads.chunks_exact(self.granules) {
            if let Some(reads) = reads[first..].first_chunk::<N>() {
                last = latest(last, reads);
            }
        }
        let pending = states.iter().fold(0, |all, &state| all | state & PENDING);
        if last > (stamp.floor << 4 | ALL) || pending != 0 {
            return false;
        }
        *states = [state; N];
        *writes = [stamp.number << 4 | ALL; N];
        *writers = [stamp.warp as u8; N];
        *authors = [[lane as u8; 4]; N];
        true
    }

    /// Notes that an asynchronous copy to `len` bytes at `offset` began.
    pub(super) fn begin_copy(
        &mut self,
        stamp: Stamp,
        lane: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        if self.write_plainly(stamp, lane, offset, len, WRITTEN | PENDING) {
            return Ok(());
        }
        self.write_granules(stamp, lane, offset, len)?;
        for (index, bytes) in granules(offset, len) {
            self.state[index] |= (bytes as u8) << 4;
        }
        Ok(())
    }

    /// Notes that it was waited for, by the lane that began it.
    pub(super) fn end_copy(&mut self, stamp: Stamp, lane: usize, offset: usize, len: usize) {
        // Copies are of whole words.
        let range = offset / 4..(offset + len) / 4;
        for state in &mut self.state[range.clone()] {
            *state = *state & !PENDING | WRITTEN;
        }
        if self.race {
            self.writes[range.clone()].fill(stamp.number << 4 | ALL);
            self.writers[range.clone()].fill(stamp.warp as u8);
            self.authors[range].fill([lane as u8; 4]);
        }
    }

    #[inline(always)]
    fn set_write(&mut self, stamp: Stamp, lane: usize, index: usize, bytes: u32) {
        self.state[index] |= bytes as u8;
        if !self.race {
            return;
        }
        let writer = stamp.warp as u8 | if stamp.is_atomic { ATOMIC } else { 0 };
        let write = self.writes[index];
        let is_same = self.writers[index] == writer && write >> 4 > stamp.handed;
        let older = if is_same { write & ALL } else { 0 };
        self.note_author(stamp, lane, index, bytes, older);
        self.writes[index] = stamp.number << 4 | bytes | older;
        self.writers[index] = writer;
    }

    #[inline(always)]
    fn check_write(
        &self,
        stamp: Stamp,
        lane: usize,
        index: usize,
        bytes: u32,
    ) -> Result<(), Conflict> {
        self.check_pending(
            index,
            bytes,
            "writes the target of an asynchronous copy that was not waited for",
        )?;
        if !self.race {
            return Ok(());
        }
        self.check_last_write(stamp, lane, index, bytes, WRITES)?;
        let known = stamp.floor << 4 | ALL;
        for reader in 0..self.warps {
            let read = self.reads[reader * self.granules + index];
            if read <= known {
                continue;
            }
            if reader == stamp.warp {
                self.check_own_read(stamp, lane, index, bytes)?;
            } else {
                self.check_read(stamp, index, bytes, reader, read)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn check_read(
        &self,
        stamp: Stamp,
        index: usize,
        bytes: u32,
        reader: usize,
        read: u32,
    ) -> Result<(), Conflict> {
        let known = self.known[stamp.warp * self.warps + reader];
        if read >> 4 <= known || read & bytes == 0 {
            return Ok(());
        }
        Err(Conflict {
            kind: FaultKind::Race,
            offset: index * 4 + (read & bytes).trailing_zeros() as usize,
            what: "writes shared memory that another warp reads, with nothing that orders them",
            other: self.pc_of(read >> 4).map(|pc| (pc, reader)),
            lane: None,
        })
    }

    #[inline(always)]
    fn check_last_write(
        &self,
        stamp: Stamp,
        lane: usize,
        index: usize,
        bytes: u32,
        [of_lane, of_warp]: [&'static str; 2],
    ) -> Result<(), Conflict> {
        let write = self.writes[index];
        let writer = usize::from(self.writers[index] & !ATOMIC);
        if write >> 4 <= stamp.floor || write & bytes == 0 {
            return Ok(());
        }
        if writer == stamp.warp {
            return self.check_own_write(stamp, lane, index, bytes, of_lane);
        }
        if write >> 4 <= self.known[stamp.warp * self.warps + writer]
            || stamp.is_atomic && self.writers[index] & ATOMIC != 0
        {
            return Ok(());
        }
        Err(Conflict {
            kind: FaultKind::Race,
            offset: index * 4 + (write & bytes).trailing_zeros() as usize,
            what: of_warp,
            other: self.pc_of(write >> 4).map(|pc| (pc, writer)),
            lane: None,
        })
    }

    #[inline(always)]
    fn check_pending(&self, index: usize, bytes: u32, what: &'static str) -> Result<(), Conflict> {
        let pending = u32::from((self.state[index] & PENDING) >> 4) & bytes;
        if pending == 0 {
            return Ok(());
        }
        let other = self
            .writes
            .get(index)
            .and_then(|write| self.pc_of(write >> 4));
        Err(Conflict {
            kind: FaultKind::AsyncPending,
            offset: index * 4 + pending.trailing_zeros() as usize,
            what,
            other: other.map(|pc| (pc, usize::from(self.writers[index] & !ATOMIC))),
            lane: None,
        })
    }

    /// The instruction of a stamp of this block.
    fn pc_of(&self, number: u32) -> Option<usize> {
        let at = number.checked_sub(self.before + 1)?;
        self.pcs.get(at as usize).map(|&pc| pc as usize)
    }
}

/// The latest of some accesses.
#[inline(always)]
fn latest(last: u32, accesses: &[u32]) -> u32 {
    accesses.iter().fold(last, |last, &access| last.max(access))
}

/// The granules of a range of bytes, each with the bits of its bytes.
#[inline(always)]
fn granules(offset: usize, len: usize) -> impl Iterator<Item = (usize, u32)> {
    let end = offset + len;
    (offset / 4..end.div_ceil(4)).map(move |index| {
        let first = offset.saturating_sub(index * 4).min(4);
        let last = (end - index * 4).min(4);
        (index, ALL << first & (ALL >> (4 - last)))
    })
}

#[cfg(test)]
mod tests;
