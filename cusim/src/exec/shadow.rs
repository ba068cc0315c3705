//! What is known of every byte of shared memory: written or not, still being copied to or not, and
//! who accessed it last.
//!
//! Order is kept by vector clocks (Flanagan and Freund, "FastTrack", 2009) with the warp as the thread:
//! a warp's own clock advances at every barrier, and a barrier hands the clocks of all that arrived to
//! all that leave. An access is ordered after another when the other's clock has been handed over.

use crate::fault::FaultKind;

/// What is known of four bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Granule {
    /// Bytes that were written.
    written: u8,
    /// Bytes that an asynchronous copy will write.
    pending: u8,
    /// Bytes of the last write.
    last_write_bytes: u8,
    last_write_warp: u8,
    /// Clock of the writer; 0 before any write.
    last_write_clock: u32,
    last_write_pc: u32,
    copy_pc: u32,
    copy_warp: u8,
}

/// When a warp last read a granule, and where.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    clock: u32,
    pc: u32,
}

/// The shadow of one block's shared memory.
pub(super) struct Shadow {
    granules: Vec<Granule>,
    /// By granule, then warp.
    reads: Vec<Read>,
    warps: usize,
    /// The clock of every warp as every warp knows it: by knower, then known.
    clocks: Vec<u32>,
    race: bool,
}

/// An access that is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) kind: FaultKind,
    pub(super) offset: usize,
    pub(super) what: &'static str,
    /// The other access: instruction and warp.
    pub(super) other: Option<(usize, usize)>,
}

impl Shadow {
    pub(super) fn new(bytes: usize, warps: usize, race: bool) -> Self {
        let granules = bytes.div_ceil(4);
        let reads = if race { granules * warps } else { 0 };
        let mut shadow = Self {
            granules: vec![Granule::default(); granules],
            reads: vec![Read::default(); reads],
            warps,
            clocks: vec![0; warps * warps],
            race,
        };
        shadow.start_clocks();
        shadow
    }

    /// Forgets everything, for the next block.
    pub(super) fn clear(&mut self) {
        self.granules.fill(Granule::default());
        self.reads.fill(Read::default());
        self.clocks.fill(0);
        self.start_clocks();
    }

    fn start_clocks(&mut self) {
        for warp in 0..self.warps {
            self.clocks[warp * self.warps + warp] = 1;
        }
    }

    /// What `warp` knows of all clocks.
    pub(super) fn clocks_of(&self, warp: usize) -> &[u32] {
        &self.clocks[warp * self.warps..(warp + 1) * self.warps]
    }

    /// `warp` leaves a barrier at which these clocks were collected.
    pub(super) fn acquire(&mut self, warp: usize, collected: &[u32]) {
        let own = &mut self.clocks[warp * self.warps..(warp + 1) * self.warps];
        own.iter_mut()
            .zip(collected)
            .for_each(|(own, &other)| *own = (*own).max(other));
    }

    /// What `warp` does from now on is later than what it gave to a barrier.
    pub(super) fn advance(&mut self, warp: usize) {
        self.clocks[warp * self.warps + warp] += 1;
    }

    /// Notes a read of `len` bytes at `offset`.
    pub(super) fn read(
        &mut self,
        warp: usize,
        pc: usize,
        offset: usize,
        len: usize,
        init: bool,
    ) -> Result<(), Conflict> {
        for (index, bytes) in granules(offset, len) {
            let granule = self.granules[index];
            self.check_pending(index, granule, bytes, "reads")?;
            if init && granule.written & bytes != bytes {
                let what = "reads shared memory that was never written";
                let offset = index * 4 + (bytes & !granule.written).trailing_zeros() as usize;
                return Err(Conflict {
                    kind: FaultKind::Uninitialized,
                    offset,
                    what,
                    other: None,
                });
            }
            if self.race {
                self.check_last_write(warp, index, granule, bytes, "reads")?;
                let clock = self.clocks[warp * self.warps + warp];
                self.reads[index * self.warps + warp] = Read {
                    clock,
                    pc: pc as u32,
                };
            }
        }
        Ok(())
    }

    /// Notes a write of `len` bytes at `offset`.
    pub(super) fn write(
        &mut self,
        warp: usize,
        pc: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        for (index, bytes) in granules(offset, len) {
            self.check_write(warp, index, bytes)?;
            self.set_write(warp, pc, index, bytes);
        }
        Ok(())
    }

    /// Notes that an asynchronous copy to `len` bytes at `offset` began.
    pub(super) fn begin_copy(
        &mut self,
        warp: usize,
        pc: usize,
        offset: usize,
        len: usize,
    ) -> Result<(), Conflict> {
        for (index, bytes) in granules(offset, len) {
            self.check_write(warp, index, bytes)?;
            self.set_write(warp, pc, index, bytes);
            let granule = &mut self.granules[index];
            granule.pending |= bytes;
            granule.copy_pc = pc as u32;
            granule.copy_warp = warp as u8;
        }
        Ok(())
    }

    /// Notes that it was waited for.
    pub(super) fn end_copy(&mut self, warp: usize, pc: usize, offset: usize, len: usize) {
        for (index, bytes) in granules(offset, len) {
            self.set_write(warp, pc, index, bytes);
            self.granules[index].pending &= !bytes;
        }
    }

    fn set_write(&mut self, warp: usize, pc: usize, index: usize, bytes: u8) {
        let clock = self.clocks[warp * self.warps + warp];
        let granule = &mut self.granules[index];
        let same = granule.last_write_warp == warp as u8 && granule.last_write_clock == clock;
        granule.written |= bytes;
        granule.last_write_bytes = if same {
            granule.last_write_bytes | bytes
        } else {
            bytes
        };
        granule.last_write_warp = warp as u8;
        granule.last_write_clock = clock;
        granule.last_write_pc = pc as u32;
    }

    fn check_write(&self, warp: usize, index: usize, bytes: u8) -> Result<(), Conflict> {
        let granule = self.granules[index];
        self.check_pending(index, granule, bytes, "writes")?;
        if !self.race {
            return Ok(());
        }
        self.check_last_write(warp, index, granule, bytes, "writes")?;
        // Reads are kept by granule: of narrower ones it is not known which bytes they were.
        if bytes != 0xf {
            return Ok(());
        }
        let known = self.clocks_of(warp);
        let reads = &self.reads[index * self.warps..(index + 1) * self.warps];
        for (reader, (read, &known)) in reads.iter().zip(known).enumerate() {
            if reader != warp && read.clock > known {
                return Err(Conflict {
                    kind: FaultKind::Race,
                    offset: index * 4,
                    what: "writes shared memory that another warp reads, with no barrier between",
                    other: Some((read.pc as usize, reader)),
                });
            }
        }
        Ok(())
    }

    fn check_last_write(
        &self,
        warp: usize,
        index: usize,
        granule: Granule,
        bytes: u8,
        verb: &'static str,
    ) -> Result<(), Conflict> {
        let writer = usize::from(granule.last_write_warp);
        if granule.last_write_clock == 0
            || writer == warp
            || granule.last_write_bytes & bytes == 0
            || granule.last_write_clock <= self.clocks[warp * self.warps + writer]
        {
            return Ok(());
        }
        let what = match verb {
            "reads" => "reads shared memory that another warp writes, with no barrier between",
            _ => "writes shared memory that another warp writes, with no barrier between",
        };
        let other = Some((granule.last_write_pc as usize, writer));
        Err(Conflict {
            kind: FaultKind::Race,
            offset: index * 4,
            what,
            other,
        })
    }

    fn check_pending(
        &self,
        index: usize,
        granule: Granule,
        bytes: u8,
        verb: &'static str,
    ) -> Result<(), Conflict> {
        if granule.pending & bytes == 0 {
            return Ok(());
        }
        let what = match verb {
            "reads" => "reads the target of an asynchronous copy that was not waited for",
            _ => "writes the target of an asynchronous copy that was not waited for",
        };
        let other = Some((granule.copy_pc as usize, usize::from(granule.copy_warp)));
        Err(Conflict {
            kind: FaultKind::AsyncPending,
            offset: index * 4,
            what,
            other,
        })
    }
}

/// The granules of a range of bytes, each with the bits of its bytes.
fn granules(offset: usize, len: usize) -> impl Iterator<Item = (usize, u8)> {
    let end = offset + len;
    (offset / 4..end.div_ceil(4)).map(move |index| {
        let first = offset.saturating_sub(index * 4).min(4);
        let last = (end - index * 4).min(4);
        (index, (0xf << first & (0xf >> (4 - last))) as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shadow() -> Shadow {
        Shadow::new(64, 2, true)
    }

    fn barrier(shadow: &mut Shadow) {
        let collected: Vec<u32> = (0..2)
            .map(|known| shadow.clocks_of(0)[known].max(shadow.clocks_of(1)[known]))
            .collect();
        for warp in 0..2 {
            shadow.acquire(warp, &collected);
            shadow.advance(warp);
        }
    }

    #[test]
    fn ranges_become_granules() {
        assert_eq!(granules(0, 4).collect::<Vec<_>>(), [(0, 0xf)]);
        assert_eq!(
            granules(6, 4).collect::<Vec<_>>(),
            [(1, 0b1100), (2, 0b0011)]
        );
        assert_eq!(granules(5, 1).collect::<Vec<_>>(), [(1, 0b0010)]);
    }

    #[test]
    fn a_barrier_orders_accesses_and_nothing_else_does() {
        let mut shadow = shadow();
        shadow.write(0, 1, 0, 4).expect("the first access");
        let race = shadow.read(1, 2, 0, 4, true).expect_err("no barrier");
        assert_eq!((race.kind, race.other), (FaultKind::Race, Some((1, 0))));
        assert!(shadow.write(1, 2, 0, 4).is_err());
        shadow.read(0, 3, 0, 4, true).expect("its own write");
        barrier(&mut shadow);
        shadow.read(1, 4, 0, 4, true).expect("a barrier between");
        let race = shadow
            .write(0, 5, 0, 4)
            .expect_err("the other warp still reads");
        assert_eq!((race.kind, race.other), (FaultKind::Race, Some((4, 1))));
        barrier(&mut shadow);
        shadow.write(0, 6, 0, 4).expect("a barrier between");
    }

    #[test]
    fn neighbouring_bytes_do_not_race() {
        let mut shadow = shadow();
        shadow.write(0, 1, 0, 2).expect("half");
        shadow.write(1, 2, 2, 2).expect("the other half");
    }

    #[test]
    fn copies_are_untouchable_until_waited_for() {
        let mut shadow = shadow();
        shadow.begin_copy(0, 1, 16, 16).expect("fresh");
        let pending = shadow.read(0, 2, 20, 4, true).expect_err("in flight");
        assert_eq!(
            (pending.kind, pending.other),
            (FaultKind::AsyncPending, Some((1, 0)))
        );
        assert!(shadow.write(0, 2, 20, 4).is_err());
        shadow.end_copy(0, 3, 16, 16);
        shadow.read(0, 4, 20, 4, true).expect("waited for");
        let race = shadow
            .read(1, 4, 20, 4, true)
            .expect_err("others need a barrier");
        assert_eq!(race.kind, FaultKind::Race);
        barrier(&mut shadow);
        shadow.read(1, 5, 20, 4, true).expect("a barrier between");
    }

    #[test]
    fn unwritten_bytes_are_found() {
        let mut shadow = shadow();
        shadow.write(0, 1, 0, 2).expect("half");
        let conflict = shadow.read(0, 2, 0, 4, true).expect_err("the other half");
        assert_eq!(
            (conflict.kind, conflict.offset),
            (FaultKind::Uninitialized, 2)
        );
        shadow.read(0, 2, 0, 4, false).expect("unchecked");
    }
}
