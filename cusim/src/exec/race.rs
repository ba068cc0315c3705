//! Races on global memory, between warps of a block, blocks of a launch and operations of streams.

use super::address::Targets;
use super::cta::Env;
use super::report;
use super::shadow::Shadow;
use super::warp::lanes_of;
use crate::fault::{Fault, FaultKind};
use crate::memory::{Clock, Page, Record, SECTOR};
use crate::program::op::Order;

/// What orders accesses of the running block after others.
struct BlockClock<'a> {
    shadow: &'a Shadow,
    /// Operations that did not happen before this launch.
    unordered: &'a [u32],
    is_isolated: bool,
}

impl Clock for BlockClock<'_> {
    #[inline]
    fn is_ordered(&self, earlier: &Record, now: &Record) -> bool {
        if earlier.operation != now.operation {
            return !self.unordered.contains(&earlier.operation);
        }
        let (warp, other) = (usize::from(now.warp), usize::from(earlier.warp));
        let is_known = || self.shadow.knows(warp, earlier.cta, other, earlier.number);
        (earlier.cta == now.cta || !self.is_isolated) && is_known()
    }

    #[inline]
    fn is_isolated(&self) -> bool {
        self.is_isolated
    }
}

/// The access at hand, as it is noted.
pub(super) fn record(
    env: &mut Env<'_>,
    access: report::Access<'_>,
    order: Order,
    is_write: bool,
) -> Record {
    let is_atomic = order != Order::Weak;
    let stamp = env.shared.shadow.stamp(access.warp, access.pc, is_atomic);
    Record {
        operation: env.memory.operation(),
        cta: env.block as u32,
        warp: access.warp as u16,
        is_write,
        is_atomic,
        pc: access.pc as u32,
        number: stamp.number(),
        bytes: 0,
    }
}

/// Notes an access of lanes within one page, or returns what it races with, and where.
pub(super) fn note(
    env: &Env<'_>,
    page: &mut Page,
    targets: &Targets,
    bytes: usize,
    now: Record,
) -> Result<(), (Record, u64)> {
    let clock = BlockClock {
        shadow: &env.shared.shadow,
        unordered: env.memory.unordered(),
        is_isolated: !env.kernel.communicates,
    };
    let start = page.start();
    let own = u32::MAX >> (SECTOR - bytes);
    // Lanes that follow each other in a sector are noted together.
    let (mut sector, mut together) = (0, 0);
    for lane in lanes_of(targets.lanes) {
        let offset = (targets.at[lane] - start) as usize;
        if offset / SECTOR != sector && together != 0 {
            page.access(sector, together, now, &clock)?;
            together = 0;
        }
        sector = offset / SECTOR;
        together |= own << (offset % SECTOR);
    }
    page.access(sector, together, now, &clock)
}

/// The report of two accesses that nothing orders.
#[cold]
pub(super) fn fault(
    env: &Env<'_>,
    access: report::Access<'_>,
    now: &Record,
    other: &Record,
    address: u64,
) -> Box<Fault> {
    let verb = |record: &Record| if record.is_write { "writes" } else { "reads" };
    let whose = if other.operation != now.operation {
        "another operation"
    } else if other.cta == now.cta {
        "another warp"
    } else {
        "another block"
    };
    let what = format!(
        "{} global memory that {whose} {}, with nothing that orders them",
        verb(now),
        verb(other)
    );
    let touches = |at: u64| (at..at + access.bytes as u64).contains(&address);
    let lanes = access.targets.lanes_where(touches);
    let mut fault = access.fault(env, FaultKind::Race, what, lanes);
    if other.operation == now.operation {
        let [x, y, z] = env.config.cta(other.cta.into());
        let who = format!("CTA ({x}, {y}, {z}), warp {}", other.warp);
        let site = env.program.site(env.kernel, other.pc as usize);
        fault.other = Some((site, who));
    } else {
        let name = env.memory.operation_name(other.operation);
        let note =
            format!("the other operation is {name}, which does not happen before this launch");
        fault.notes.push(note);
    }
    fault
}

/// The report of an access to what the host accesses in an operation that does not happen before the launch.
#[cold]
pub(super) fn host_fault(
    env: &Env<'_>,
    access: report::Access<'_>,
    operation: u32,
    is_write: bool,
    lanes: u32,
) -> Box<Fault> {
    let verb = if is_write { "writes" } else { "reads" };
    let what = format!(
        "{verb} global memory that another operation accesses, with nothing that orders them"
    );
    let mut fault = access.fault(env, FaultKind::Race, what, lanes);
    let name = env.memory.operation_name(operation);
    let note = format!("the other operation is {name}, which does not happen before this launch");
    fault.notes.push(note);
    fault
}
