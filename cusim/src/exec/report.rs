//! Faults of memory accesses in words: who, where, and what is near.

use super::access::Outcome;
use super::address::{Place, Targets};
use super::cta::Env;
use super::shadow::Conflict;
use super::warp::Warp;
use crate::fault::{Fault, FaultKind};

/// A memory instruction of some lanes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access<'a> {
    pub(super) warp: usize,
    pub(super) pc: usize,
    pub(super) targets: &'a Targets,
    /// Bytes of each lane.
    pub(super) bytes: usize,
}

impl<'a> Access<'a> {
    #[inline(always)]
    pub(super) fn new(warp: &Warp, pc: usize, targets: &'a Targets, bytes: usize) -> Self {
        let warp = warp.index;
        Self {
            warp,
            pc,
            targets,
            bytes,
        }
    }

    /// Every lane's address must be a multiple of what it accesses.
    #[inline(always)]
    pub(super) fn check_aligned(&self, env: &Env<'_>) -> Outcome<()> {
        match self.targets.misaligned(self.bytes) {
            0 => Ok(()),
            lanes => Err(self.misaligned(env, lanes)),
        }
    }

    /// Lanes `lanes` do `what`, which they must not.
    #[cold]
    pub(super) fn fault(
        &self,
        env: &Env<'_>,
        kind: FaultKind,
        what: impl Into<String>,
        lanes: u32,
    ) -> Box<Fault> {
        let lane = lanes.trailing_zeros() as usize & 31;
        self.fault_at(env, kind, what.into(), lanes, self.targets.at[lane])
    }

    /// The bytes of some lanes are not all in the place.
    #[cold]
    pub(super) fn illegal(&self, env: &Env<'_>, verb: &str, lanes: u32) -> Box<Fault> {
        let what = match self.targets.place {
            Place::Global => "outside of every allocation",
            Place::Shared => "shared memory past the block's own",
            Place::Local => "local memory outside of the thread's variables",
            Place::Param => "past the kernel's parameters",
            Place::Nowhere => "an address of no state space",
        };
        self.fault(
            env,
            FaultKind::IllegalAddress,
            format!("{verb} {what}"),
            lanes,
        )
    }

    #[cold]
    fn misaligned(&self, env: &Env<'_>, lanes: u32) -> Box<Fault> {
        let what = format!(
            "accesses {} bytes at an address that is no multiple of {}",
            self.bytes, self.bytes
        );
        self.fault(env, FaultKind::MisalignedAddress, what, lanes)
    }

    #[cold]
    pub(super) fn uninitialized(&self, env: &Env<'_>, lanes: u32) -> Box<Fault> {
        let what = format!(
            "reads {} memory that was never written",
            self.targets.place.name()
        );
        self.fault(env, FaultKind::Uninitialized, what, lanes)
    }

    /// What the shadow of shared memory found for a lane.
    #[cold]
    pub(super) fn conflict(&self, env: &Env<'_>, conflict: Conflict, lane: usize) -> Box<Fault> {
        let (kind, what) = (conflict.kind, conflict.what.to_owned());
        let mut fault = self.fault_at(env, kind, what, 1 << lane, conflict.offset as u64);
        fault.other = conflict.other.map(|(pc, warp)| {
            let who = match conflict.lane {
                Some(lane) => format!("warp {warp}, lane {lane}"),
                None if warp == self.warp => format!("warp {warp} itself"),
                None => format!("warp {warp}"),
            };
            (env.program.site(env.kernel, pc), who)
        });
        fault
    }

    fn fault_at(
        &self,
        env: &Env<'_>,
        kind: FaultKind,
        what: String,
        lanes: u32,
        address: u64,
    ) -> Box<Fault> {
        let place = self.targets.place;
        let mut fault = env.fault(kind, what, self.warp, self.pc, lanes);
        fault.address = Some(address);
        let bytes = match self.bytes {
            1 => "1 byte".to_owned(),
            bytes => format!("{bytes} bytes"),
        };
        fault.notes.push(format!(
            "the access: {bytes} at 0x{address:x} in {} space",
            place.name()
        ));
        if lanes.count_ones() > 1 {
            let last = 31 - lanes.leading_zeros() as usize;
            fault.notes.push(format!(
                "the address is that of the first of these lanes; the last has 0x{:x}",
                self.targets.at[last]
            ));
        }
        match place {
            Place::Global => fault.notes.extend(near(env, address, self.bytes as u64)),
            Place::Shared => {
                let (fixed, dynamic) = (env.kernel.static_shared(), env.config.dynamic_shared);
                fault.notes.push(format!(
                    "the block has {} bytes of shared memory: {fixed} static, {dynamic} dynamic",
                    fixed + dynamic
                ));
            }
            Place::Local | Place::Param => {
                let size = env.size_of(place);
                fault
                    .notes
                    .push(format!("there are {size} bytes in {} space", place.name()));
            }
            Place::Nowhere => fault.notes.extend(nearly_null(address)),
        }
        fault
    }
}

/// Addresses below this come from a null pointer, those farther than this from every allocation from none
/// of them.
const NEAR: u64 = 1 << 20;

fn nearly_null(address: u64) -> Option<String> {
    (address < NEAR).then(|| "the address is nearly null".to_owned())
}

/// The allocation next to an address in words.
fn near(env: &Env<'_>, address: u64, bytes: u64) -> Option<String> {
    if let Some(note) = nearly_null(address) {
        return Some(note);
    }
    let info = env.memory.nearest(address)?;
    let end = info.base + info.len;
    if address
        .saturating_sub(end)
        .max(info.base.saturating_sub(address))
        > NEAR
    {
        return Some("the address is not near any allocation".to_owned());
    }
    let place = if address >= end {
        format!("{} bytes past the end of", address - end)
    } else if address < info.base {
        format!("{} bytes before", info.base - address)
    } else if address + bytes > end {
        "across the end of".to_owned()
    } else {
        format!("{} bytes into", address - info.base)
    };
    let freed = match (info.live, info.open) {
        (false, _) => ", which was freed",
        (true, false) => ", which is on a device whose memory this one may not access",
        (true, true) => "",
    };
    Some(format!(
        "{place} the allocation of {} bytes at 0x{:x} by {}{freed}",
        info.len, info.base, info.origin
    ))
}
