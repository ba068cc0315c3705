use super::*;
use crate::program::op::Scope;

fn shadow() -> Shadow {
    let mut shadow = Shadow::new(64, 96, true);
    shadow.clear(0);
    shadow
}

fn read(
    shadow: &mut Shadow,
    warp: usize,
    pc: usize,
    offset: usize,
    len: usize,
) -> Result<(), Conflict> {
    let stamp = shadow.stamp(warp, pc, false);
    shadow.read(stamp, 0, offset, len, true)
}

fn write(
    shadow: &mut Shadow,
    warp: usize,
    pc: usize,
    offset: usize,
    len: usize,
) -> Result<(), Conflict> {
    let stamp = shadow.stamp(warp, pc, false);
    shadow.write(stamp, 0, offset, len)
}

/// All of these warps leave a barrier that all of them came to.
fn barrier(shadow: &mut Shadow, warps: &[usize]) {
    let mut collected = Clocks::default();
    for &warp in warps {
        collected.join(&shadow.clocks_of(warp));
    }
    for &warp in warps {
        shadow.acquire(warp, &collected);
    }
}

fn race(result: Result<(), Conflict>) -> Option<(usize, usize)> {
    let conflict = result.expect_err("a race");
    assert_eq!(conflict.kind, FaultKind::Race);
    conflict.other
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
    write(&mut shadow, 0, 1, 0, 4).expect("the first access");
    assert_eq!(race(read(&mut shadow, 1, 2, 0, 4)), Some((1, 0)));
    assert_eq!(race(write(&mut shadow, 1, 2, 0, 4)), Some((1, 0)));
    read(&mut shadow, 0, 3, 0, 4).expect("its own write");
    barrier(&mut shadow, &[0, 1, 2]);
    read(&mut shadow, 1, 4, 0, 4).expect("a barrier between");
    assert_eq!(race(write(&mut shadow, 0, 5, 0, 4)), Some((4, 1)));
    barrier(&mut shadow, &[0, 1, 2]);
    write(&mut shadow, 0, 6, 0, 4).expect("a barrier between");
}

#[test]
fn a_barrier_of_some_warps_orders_only_those() {
    let mut shadow = shadow();
    write(&mut shadow, 0, 1, 0, 4).expect("the first access");
    barrier(&mut shadow, &[0, 1]);
    read(&mut shadow, 1, 2, 0, 4).expect("a barrier between");
    assert_eq!(race(read(&mut shadow, 2, 3, 0, 4)), Some((1, 0)));
    barrier(&mut shadow, &[1, 2]);
    read(&mut shadow, 2, 4, 0, 4).expect("warp 1 handed on what it knew");
    assert_eq!(race(write(&mut shadow, 0, 5, 0, 4)), Some((2, 1)));
}

#[test]
fn neighbouring_bytes_do_not_race() {
    let mut shadow = shadow();
    write(&mut shadow, 0, 1, 0, 2).expect("half");
    write(&mut shadow, 1, 2, 2, 2).expect("the other half");
    barrier(&mut shadow, &[0, 1, 2]);
    read(&mut shadow, 0, 3, 0, 1).expect("a byte");
    read(&mut shadow, 0, 3, 1, 1).expect("the next");
    write(&mut shadow, 1, 4, 2, 2).expect("other bytes");
    assert_eq!(race(write(&mut shadow, 1, 4, 0, 1)), Some((3, 0)));
}

#[test]
fn copies_are_untouchable_until_waited_for() {
    let mut shadow = shadow();
    let stamp = shadow.stamp(0, 1, false);
    shadow.begin_copy(stamp, 0, 16, 16).expect("fresh");
    let pending = read(&mut shadow, 0, 2, 20, 4).expect_err("in flight");
    assert_eq!(
        (pending.kind, pending.other),
        (FaultKind::AsyncPending, Some((1, 0)))
    );
    assert!(write(&mut shadow, 0, 2, 20, 4).is_err());
    let stamp = shadow.stamp(0, 1, false);
    shadow.end_copy(stamp, 0, 16, 16);
    read(&mut shadow, 0, 4, 20, 4).expect("waited for");
    assert_eq!(
        race(read(&mut shadow, 1, 4, 20, 4)),
        Some((1, 0)),
        "others need a barrier"
    );
    barrier(&mut shadow, &[0, 1, 2]);
    read(&mut shadow, 1, 5, 20, 4).expect("a barrier between");
}

#[test]
fn unwritten_bytes_are_found() {
    let mut shadow = shadow();
    write(&mut shadow, 0, 1, 0, 2).expect("half");
    let conflict = read(&mut shadow, 0, 2, 0, 4).expect_err("the other half");
    assert_eq!(
        (conflict.kind, conflict.offset),
        (FaultKind::Uninitialized, 2)
    );
    let stamp = shadow.stamp(0, 2, false);
    shadow.read(stamp, 0, 0, 4, false).expect("unchecked");
}

#[test]
fn a_new_block_starts_with_nothing() {
    let mut shadow = shadow();
    write(&mut shadow, 0, 1, 0, 4).expect("the first access");
    shadow.clear(0);
    write(&mut shadow, 1, 2, 0, 4).expect("another block's");
    let conflict = read(&mut shadow, 1, 3, 4, 4).expect_err("never written in this block");
    assert_eq!(conflict.kind, FaultKind::Uninitialized);
}

#[test]
fn atomic_operations_do_not_race_with_each_other() {
    let mut shadow = shadow();
    let first = shadow.stamp(0, 1, true);
    shadow.write(first, 0, 0, 4).expect("the first access");
    let second = shadow.stamp(1, 2, true);
    shadow.read(second, 0, 0, 4, true).expect("atomic");
    shadow.write(second, 0, 0, 4).expect("atomic");
    assert_eq!(
        race(read(&mut shadow, 0, 3, 0, 4)),
        Some((2, 1)),
        "a plain read"
    );
}

#[test]
fn fences_and_atomic_operations_hand_over() {
    let mut shadow = shadow();
    write(&mut shadow, 0, 1, 0, 4).expect("the data");
    shadow.synchronize(0, 0, (0x100, Scope::Device), false, false);
    shadow.synchronize(1, 0, (0x100, Scope::Device), true, false);
    race(read(&mut shadow, 1, 2, 0, 4)).expect("nothing was released");
    shadow.fence(0, 1, true);
    shadow.synchronize(0, 0, (0x100, Scope::Device), false, false);
    shadow.synchronize(1, 0, (0x100, Scope::Device), false, false);
    race(read(&mut shadow, 1, 3, 0, 4)).expect("nothing was acquired");
    shadow.fence(1, 1, true);
    read(&mut shadow, 1, 4, 0, 4).expect("fence, flag, fence");
    shadow.synchronize(2, 0, (0x100, Scope::Device), true, false);
    read(&mut shadow, 2, 5, 0, 4).expect("an acquire");
}

/// A read, or else a write, of `len` bytes at `offset` by a lane of warp 0.
fn of_lane(
    shadow: &mut Shadow,
    lane: usize,
    is_write: bool,
    offset: usize,
    len: usize,
) -> Result<(), Conflict> {
    let stamp = shadow.stamp(0, lane, false);
    if is_write {
        shadow.write(stamp, lane, offset, len)
    } else {
        shadow.read(stamp, lane, offset, len, false)
    }
}

const READ: bool = false;
const WRITE: bool = true;

fn lane_of(result: Result<(), Conflict>) -> (usize, usize) {
    let conflict = result.expect_err("a race of lanes");
    (conflict.lane.expect("a lane"), conflict.offset)
}

#[test]
fn lanes_are_ordered_where_both_meet() {
    let mut shadow = shadow();
    of_lane(&mut shadow, 3, WRITE, 0, 4).expect("the first access");
    of_lane(&mut shadow, 3, READ, 0, 4).expect("its own");
    assert_eq!(lane_of(of_lane(&mut shadow, 5, READ, 0, 4)), (3, 0));
    assert_eq!(lane_of(of_lane(&mut shadow, 5, WRITE, 0, 4)), (3, 0));
    shadow.meet(0, 1 << 5 | 1 << 6);
    assert_eq!(lane_of(of_lane(&mut shadow, 5, READ, 0, 4)), (3, 0));
    shadow.meet(0, 1 << 3 | 1 << 5);
    of_lane(&mut shadow, 5, READ, 0, 4).expect("both met");
    assert_eq!(lane_of(of_lane(&mut shadow, 7, READ, 0, 4)), (3, 0));
    shadow.meet(0, u32::MAX);
    of_lane(&mut shadow, 7, WRITE, 0, 4).expect("all met");
}

#[test]
fn every_lane_that_reads_is_remembered() {
    for (is_even, len) in [(true, 4), (true, 2), (false, 4), (false, 2)] {
        let mut shadow = shadow();
        of_lane(&mut shadow, 0, WRITE, 0, 4).expect("the first access");
        shadow.meet(0, u32::MAX);
        if !is_even {
            // A lane that met others must not make one forget what the rest read.
            shadow.stamp(0, 0, false);
            shadow.meet(0, 1 << 9);
        }
        of_lane(&mut shadow, 1, READ, 0, len).expect("a read");
        of_lane(&mut shadow, 2, READ, 0, len).expect("another");
        assert_eq!(lane_of(of_lane(&mut shadow, 2, WRITE, 0, 4)), (1, 0));
        assert_eq!(lane_of(of_lane(&mut shadow, 1, WRITE, 0, 4)), (2, 0));
        shadow.meet(0, 1 << 1 | 1 << 2);
        of_lane(&mut shadow, 2, WRITE, 0, 4).expect("the two met");
        assert_eq!(lane_of(of_lane(&mut shadow, 4, WRITE, 0, 4)), (2, 0));
        shadow.meet(0, u32::MAX);
        of_lane(&mut shadow, 1, READ, 0, len).expect("all met");
        of_lane(&mut shadow, 1, WRITE, 0, 4).expect("the only reader since");
    }
}

#[test]
fn a_read_that_is_ordered_stays_so_when_others_read_on() {
    let mut shadow = shadow();
    of_lane(&mut shadow, 0, WRITE, 0, 4).expect("the first access");
    shadow.meet(0, u32::MAX);
    of_lane(&mut shadow, 1, READ, 0, 4).expect("a read");
    shadow.meet(0, 1 << 1 | 1 << 2);
    of_lane(&mut shadow, 2, READ, 0, 4).expect("a later one");
    of_lane(&mut shadow, 2, WRITE, 0, 4).expect("the other was before they met");
}

#[test]
fn bytes_of_a_granule_are_of_different_lanes() {
    let mut shadow = shadow();
    for lane in 0..4 {
        of_lane(&mut shadow, lane, WRITE, lane, 1).expect("its own byte");
    }
    for lane in 0..4 {
        of_lane(&mut shadow, lane, READ, lane, 1).expect("its own byte");
        of_lane(&mut shadow, lane, WRITE, lane, 1).expect("its own byte");
    }
    assert_eq!(lane_of(of_lane(&mut shadow, 1, READ, 0, 4)), (0, 0));
    assert_eq!(lane_of(of_lane(&mut shadow, 0, READ, 0, 4)), (1, 1));
    assert_eq!(lane_of(of_lane(&mut shadow, 0, WRITE, 2, 2)), (2, 2));
    shadow.meet(0, u32::MAX);
    of_lane(&mut shadow, 1, READ, 0, 1).expect("all met");
    of_lane(&mut shadow, 2, READ, 2, 2).expect("all met");
    of_lane(&mut shadow, 9, WRITE, 1, 1).expect("which nobody read since");
    assert_eq!(lane_of(of_lane(&mut shadow, 9, WRITE, 3, 1)), (2, 3));
    assert_eq!(lane_of(of_lane(&mut shadow, 9, WRITE, 0, 1)), (1, 0));
}

#[test]
fn lanes_of_one_instruction_do_not_race() {
    let mut shadow = shadow();
    let stamp = shadow.stamp(0, 1, false);
    for lane in 0..32 {
        shadow.write(stamp, lane, 0, 4).expect("the same word");
    }
    assert_eq!(lane_of(of_lane(&mut shadow, 3, READ, 0, 4)), (31, 0));
}

#[test]
fn a_lane_waits_for_its_own_copies() {
    let mut shadow = shadow();
    let stamp = shadow.stamp(0, 1, false);
    shadow.begin_copy(stamp, 4, 16, 16).expect("fresh");
    shadow.meet(0, u32::MAX);
    let stamp = shadow.stamp(0, 1, false);
    shadow.end_copy(stamp, 4, 16, 16);
    of_lane(&mut shadow, 4, READ, 16, 16).expect("its own");
    assert_eq!(lane_of(of_lane(&mut shadow, 5, READ, 16, 16)), (4, 16));
    shadow.meet(0, u32::MAX);
    of_lane(&mut shadow, 5, READ, 16, 16).expect("all met");
}

#[test]
fn lanes_that_exit_are_waited_for_no_more() {
    let mut shadow = shadow();
    of_lane(&mut shadow, 4, WRITE, 0, 4).expect("the first access");
    shadow.exit(0, 1 << 4);
    assert_eq!(lane_of(of_lane(&mut shadow, 5, READ, 0, 4)), (4, 0));
    shadow.meet_all(0);
    of_lane(&mut shadow, 5, READ, 0, 4).expect("all that are left met");
}
