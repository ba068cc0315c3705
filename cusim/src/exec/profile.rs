//! What each instruction and each allocation of a launch took.

use std::collections::HashMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::Counters;
use super::address::Targets;
use super::warp::lanes_of;
use crate::memory::{GlobalMemory, SECTOR};

/// Sectors of a group that is kept as one word of bits.
const GROUP: u64 = 64 * SECTOR as u64;

/// A launch in detail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// The totals.
    pub counters: Counters,
    /// The same by instruction of the kernel, with all calls inlined.
    pub instructions: Vec<Counters>,
    /// Traffic by allocation, for those that were accessed, by address.
    pub allocations: Vec<AllocationTraffic>,
}

/// Global traffic of one allocation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AllocationTraffic {
    /// First address.
    pub address: u64,
    /// Bytes of the allocation.
    pub bytes: u64,
    /// What made it.
    pub origin: String,
    /// 32-byte sectors that loads touched, counted for each instruction of a warp.
    pub load_sectors: u64,
    /// Bytes that lanes loaded.
    pub load_bytes: u64,
    /// Different sectors among those: what a cache that holds everything would read once.
    pub unique_load_sectors: u64,
    /// As for loads.
    pub store_sectors: u64,
    /// As for loads.
    pub store_bytes: u64,
    /// As for loads.
    pub unique_store_sectors: u64,
}

/// Which sectors were touched, as bits by group.
type Sectors = HashMap<u64, u64>;

/// What is collected where a launch is profiled.
#[derive(Debug, Default)]
pub(super) struct Details {
    pub(super) instructions: Vec<Counters>,
    /// By allocation, then loads and stores.
    traffic: HashMap<usize, [Traffic; 2]>,
}

#[derive(Debug, Default)]
struct Traffic {
    sectors: u64,
    bytes: u64,
    unique: Sectors,
}

impl Details {
    pub(super) fn new(instructions: usize) -> Self {
        Self {
            instructions: vec![Counters::default(); instructions],
            traffic: HashMap::new(),
        }
    }

    /// Adds an access of `bytes` bytes by each lane to one allocation.
    pub(super) fn access(
        &mut self,
        allocation: usize,
        is_write: bool,
        targets: &Targets,
        bytes: usize,
    ) {
        let traffic = &mut self.traffic.entry(allocation).or_default()[usize::from(is_write)];
        traffic.bytes += u64::from(targets.lanes.count_ones()) * bytes as u64;
        // The sectors of this access alone are few, and mostly in one group.
        let mut own: Vec<(u64, u64)> = Vec::with_capacity(2);
        for lane in lanes_of(targets.lanes) {
            let at = targets.at[lane];
            let (group, bit) = (at / GROUP, 1 << (at % GROUP / SECTOR as u64));
            match own.iter_mut().find(|(known, _)| *known == group) {
                Some((_, bits)) => *bits |= bit,
                None => own.push((group, bit)),
            }
        }
        for (group, bits) in own {
            traffic.sectors += u64::from(bits.count_ones());
            *traffic.unique.entry(group).or_default() |= bits;
        }
    }

    /// All of it, in words.
    pub(super) fn finish(self, counters: Counters, memory: &GlobalMemory) -> Profile {
        let unique = |traffic: &Traffic| -> u64 {
            let groups = traffic.unique.values();
            groups.map(|bits| u64::from(bits.count_ones())).sum()
        };
        let allocation = |(index, [loads, stores]): (usize, [Traffic; 2])| {
            let info = memory.allocation(index).info();
            AllocationTraffic {
                address: info.base,
                bytes: info.len,
                origin: info.origin,
                load_sectors: loads.sectors,
                load_bytes: loads.bytes,
                unique_load_sectors: unique(&loads),
                store_sectors: stores.sectors,
                store_bytes: stores.bytes,
                unique_store_sectors: unique(&stores),
            }
        };
        let mut allocations: Vec<_> = self.traffic.into_iter().map(allocation).collect();
        allocations.sort_by_key(|allocation| allocation.address);
        Profile {
            counters,
            instructions: self.instructions,
            allocations,
        }
    }
}

/// What one thread counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counters: Counters,
    pub(super) details: Option<Box<Details>>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.counters += other.counters;
        let Some(other) = other.details else { return };
        let Some(own) = &mut self.details else {
            self.details = Some(other);
            return;
        };
        for (own, other) in own.instructions.iter_mut().zip(&other.instructions) {
            *own += *other;
        }
        for (index, traffic) in other.traffic {
            let own = own.traffic.entry(index).or_default();
            for (own, other) in own.iter_mut().zip(traffic) {
                own.sectors += other.sectors;
                own.bytes += other.bytes;
                for (group, bits) in other.unique {
                    *own.unique.entry(group).or_default() |= bits;
                }
            }
        }
    }
}
