//! Who accessed each byte of device memory last, and whether an access is ordered after those.
//!
//! Races are found as in Flanagan and Freund, "FastTrack", 2009, with warps as threads: each access has a
//! number that grows along its block, and is ordered before another when the number that the other's warp
//! knows of its warp is not below its own. Accesses are kept by sectors of 32 bytes with a bit for each byte,
//! because a warp mostly accesses whole sectors.

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 32;

/// One access to some bytes of a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    /// The operation, that is the launch.
    pub(crate) operation: u32,
    /// Index of the block in its grid.
    pub(crate) cta: u32,
    /// The warp in the block.
    pub(crate) warp: u16,
    pub(crate) is_write: bool,
    /// Atomic, or ordered like an atomic operation.
    pub(crate) is_atomic: bool,
    /// The instruction.
    pub(crate) pc: u32,
    /// The number of the access in its block.
    pub(crate) number: u32,
    /// Its bytes, one bit each.
    pub(crate) bytes: u32,
}

impl Record {
    fn is_same_warp(&self, other: &Record) -> bool {
        (self.operation, self.cta, self.warp) == (other.operation, other.cta, other.warp)
    }
}

/// What decides whether an earlier access is ordered before the current one.
pub(crate) trait Clock {
    /// True when `earlier` happens before the access at hand, which `now` describes.
    fn is_ordered(&self, earlier: &Record, now: &Record) -> bool;

    /// True when blocks of a launch are never ordered with each other.
    fn is_isolated(&self) -> bool;
}

/// The latest accesses to a sector: one write and one read in place, more of them apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sector {
    write: Record,
    read: Record,
    #[allow(clippy::box_collection)] // a word, for the sectors of which few have more
    more: Option<Box<Vec<Record>>>,
}

impl Sector {
    /// Notes an access to `bytes`, or returns the one it races with and the bytes both touch.
    #[inline]
    pub(crate) fn access(
        &mut self,
        bytes: u32,
        mut now: Record,
        clock: &impl Clock,
    ) -> Result<(), (Record, u32)> {
        now.bytes = bytes;
        let conflicts = |earlier: &Record| {
            earlier.bytes & bytes != 0
                && (earlier.is_write || now.is_write)
                && !(earlier.is_atomic && now.is_atomic)
                && !earlier.is_same_warp(&now)
                && !clock.is_ordered(earlier, &now)
        };
        let more = self.more.iter().flat_map(|more| more.iter());
        if let Some(earlier) = [&self.write, &self.read]
            .into_iter()
            .chain(more)
            .find(|earlier| conflicts(earlier))
        {
            return Err((*earlier, earlier.bytes & bytes));
        }
        if now.is_write {
            self.note_write(now);
        } else {
            self.note_read(now, clock);
        }
        Ok(())
    }

    /// Whatever was there happened before: only the new write need be known.
    fn note_write(&mut self, mut now: Record) {
        if self.write.is_same_warp(&now) && self.write.number == now.number {
            now.bytes |= self.write.bytes;
        }
        self.read.bytes &= !now.bytes;
        if let Some(more) = &mut self.more {
            more.iter_mut()
                .for_each(|record| record.bytes &= !now.bytes);
            more.retain(|record| record.bytes != 0);
        }
        self.write.bytes &= !now.bytes;
        let older = std::mem::replace(&mut self.write, now);
        if older.bytes != 0 {
            self.keep(older);
        }
    }

    /// An earlier read that happened before this one says no more than this one.
    fn note_read(&mut self, mut now: Record, clock: &impl Clock) {
        let same = |earlier: &Record| earlier.is_same_warp(&now) && earlier.number == now.number;
        if same(&self.read) {
            self.read.bytes |= now.bytes;
            return;
        }
        let supersedes = |earlier: &Record| {
            if earlier.bytes == 0 {
                return true;
            }
            earlier.bytes & !now.bytes == 0
                && earlier.is_atomic == now.is_atomic
                && (earlier.is_same_warp(&now) || clock.is_ordered(earlier, &now))
        };
        if supersedes(&self.read) {
            self.read = now;
            return;
        }
        if let Some(more) = &mut self.more {
            more.retain(|record| record.is_write || !supersedes(record));
            // Where blocks are never ordered, any write races with one of two that read.
            let mut others = more.iter().filter(|record| {
                !record.is_write && record.cta != self.read.cta && now.bytes & !record.bytes == 0
            });
            if clock.is_isolated()
                && now.bytes & !self.read.bytes == 0
                && now.operation == self.read.operation
                && others.any(|other| other.operation == now.operation)
            {
                return;
            }
        }
        std::mem::swap(&mut self.read, &mut now);
        self.keep(now);
    }

    #[cold]
    fn keep(&mut self, record: Record) {
        self.more.get_or_insert_default().push(record);
    }

    /// The first access of some operations that an access of the host to `bytes` conflicts with.
    pub(crate) fn conflict_with(
        &self,
        bytes: u32,
        is_write: bool,
        operations: &[u32],
    ) -> Option<&Record> {
        let more = self.more.iter().flat_map(|more| more.iter());
        [&self.write, &self.read]
            .into_iter()
            .chain(more)
            .find(|record| {
                record.bytes & bytes != 0
                    && (record.is_write || is_write)
                    && operations.contains(&record.operation)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything is ordered before accesses of these numbers or later.
    struct From(u32);

    impl Clock for From {
        fn is_ordered(&self, earlier: &Record, now: &Record) -> bool {
            earlier.operation != now.operation || earlier.number < self.0
        }

        fn is_isolated(&self) -> bool {
            true
        }
    }

    fn record(cta: u32, warp: u16, number: u32, is_write: bool) -> Record {
        Record {
            operation: 1,
            cta,
            warp,
            number,
            is_write,
            ..Record::default()
        }
    }

    #[test]
    fn unordered_accesses_race_where_one_writes() {
        let mut sector = Sector::default();
        let all = u32::MAX;
        let unordered = From(0);
        sector
            .access(0xff, record(0, 0, 1, true), &unordered)
            .expect("first");
        sector
            .access(0xff00, record(0, 1, 2, true), &unordered)
            .expect("other bytes");
        sector
            .access(0xff, record(0, 0, 3, false), &unordered)
            .expect("its own");
        let (other, bytes) = sector
            .access(all, record(0, 1, 4, false), &unordered)
            .expect_err("a race");
        assert_eq!((other.warp, other.number, bytes), (0, 1, 0xff));
        sector
            .access(all, record(0, 1, 5, false), &From(4))
            .expect("ordered");
        let (other, _) = sector
            .access(1, record(0, 0, 6, true), &unordered)
            .expect_err("read by warp 1");
        assert_eq!((other.warp, other.is_write), (1, false));
        sector
            .access(1, record(0, 0, 7, true), &From(6))
            .expect("ordered");
    }

    #[test]
    fn atomics_race_with_others_only() {
        let mut sector = Sector::default();
        let atomic = |warp, number| Record {
            is_atomic: true,
            ..record(0, warp, number, true)
        };
        sector.access(0xf, atomic(0, 1), &From(0)).expect("first");
        sector.access(0xf, atomic(1, 2), &From(0)).expect("atomic");
        sector
            .access(0xf, record(0, 2, 3, false), &From(0))
            .expect_err("not atomic");
    }

    #[test]
    fn every_reader_is_known_to_a_writer() {
        for reader in 0..5 {
            let mut sector = Sector::default();
            for cta in 0..5 {
                sector
                    .access(0xff, record(cta, 0, 1, false), &From(0))
                    .expect("a read");
            }
            sector
                .access(0xff, record(reader, 0, 2, true), &From(0))
                .expect_err("the other blocks read");
        }
        let mut sector = Sector::default();
        for warp in 0..5 {
            sector
                .access(0xff, record(0, warp, u32::from(warp), false), &From(0))
                .expect("a read");
        }
        for missed in 1..5 {
            sector
                .clone()
                .access(0xff, record(0, 9, 7, true), &From(missed))
                .expect_err("one is not ordered");
        }
        sector
            .access(0xff, record(0, 9, 8, true), &From(5))
            .expect("all are");
    }

    #[test]
    fn earlier_operations_are_asked_for_by_name() {
        let mut sector = Sector::default();
        sector
            .access(0xf0, record(0, 0, 1, false), &From(0))
            .expect("a read");
        assert!(sector.conflict_with(0xf0, true, &[1]).is_some());
        assert!(
            sector.conflict_with(0xf0, false, &[1]).is_none(),
            "both read"
        );
        assert!(
            sector.conflict_with(0x0f, true, &[1]).is_none(),
            "other bytes"
        );
        assert!(sector.conflict_with(0xf0, true, &[2]).is_none(), "ordered");
    }
}
