//! Asynchronous copies of a warp's lanes and the groups they are committed to (PTX ISA, "cp.async").
//!
//! A copy lands at the last moment that is legal, when its lane waits for it; until then its target
//! may not be touched.

/// A copy in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    pub(super) lane: u8,
    pub(super) len: u8,
    /// How many groups its lane had committed before.
    group: u32,
    /// Offset in shared memory.
    pub(super) offset: u32,
    pub(super) data: [u8; 16],
}

/// The copies of one warp.
#[derive(Debug, Clone)]
pub(super) struct Copies {
    in_flight: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            in_flight: Vec::new(),
            committed: [0; 32],
        }
    }
}

impl Copies {
    pub(super) fn issue(&mut self, lane: usize, offset: u32, data: [u8; 16], len: usize) {
        let group = self.committed[lane];
        self.in_flight.push(Copy {
            lane: lane as u8,
            len: len as u8,
            group,
            offset,
            data,
        });
    }

    pub(super) fn commit(&mut self, lanes: impl Iterator<Item = usize>) {
        lanes.for_each(|lane| self.committed[lane] += 1);
    }

    /// Takes what lands when the lanes of `mask` wait until at most `pending` of their groups are in
    /// flight; `None` waits for everything, uncommitted copies included.
    pub(super) fn wait(&mut self, mask: u32, pending: Option<u32>) -> Vec<Copy> {
        let committed = self.committed;
        self.in_flight
            .extract_if(.., |copy| {
                let lane = usize::from(copy.lane);
                let lands = match pending {
                    None => true,
                    Some(pending) => {
                        u64::from(copy.group) + u64::from(pending) < u64::from(committed[lane])
                    }
                };
                lands && mask >> lane & 1 == 1
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_land_in_order_of_commit() {
        let mut copies = Copies::default();
        for offset in [0, 16] {
            copies.issue(3, offset, [0; 16], 16);
            copies.commit([3].into_iter());
        }
        copies.issue(3, 32, [0; 16], 16);
        let mut landed = |pending| -> Vec<u32> {
            copies
                .wait(1 << 3, pending)
                .iter()
                .map(|copy| copy.offset)
                .collect()
        };
        assert!(landed(Some(2)).is_empty());
        assert_eq!(landed(Some(1)), [0]);
        assert_eq!(landed(Some(0)), [16], "uncommitted copies are in no group");
        assert_eq!(landed(None), [32]);
    }

    #[test]
    fn lanes_wait_for_their_own_copies() {
        let mut copies = Copies::default();
        copies.issue(0, 0, [0; 16], 16);
        copies.issue(1, 16, [0; 16], 16);
        copies.commit(0..2);
        assert_eq!(copies.wait(1 << 1, Some(0)).len(), 1);
        assert_eq!(copies.wait(1 << 0, Some(0)).len(), 1);
    }
}
