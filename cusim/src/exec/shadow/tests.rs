use super::*;

fn shadow() -> Shadow {
    let mut shadow = Shadow::new(64, 3, true);
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
    shadow.read(stamp, offset, len, true)
}

fn write(
    shadow: &mut Shadow,
    warp: usize,
    pc: usize,
    offset: usize,
    len: usize,
) -> Result<(), Conflict> {
    let stamp = shadow.stamp(warp, pc, false);
    shadow.write(stamp, offset, len)
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
    shadow.begin_copy(stamp, 16, 16).expect("fresh");
    let pending = read(&mut shadow, 0, 2, 20, 4).expect_err("in flight");
    assert_eq!(
        (pending.kind, pending.other),
        (FaultKind::AsyncPending, Some((1, 0)))
    );
    assert!(write(&mut shadow, 0, 2, 20, 4).is_err());
    let stamp = shadow.stamp(0, 1, false);
    shadow.end_copy(stamp, 16, 16);
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
    shadow.read(stamp, 0, 4, false).expect("unchecked");
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
    shadow.write(first, 0, 4).expect("the first access");
    let second = shadow.stamp(1, 2, true);
    shadow.read(second, 0, 4, true).expect("atomic");
    shadow.write(second, 0, 4).expect("atomic");
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
    shadow.synchronize(0, 0x100, false, false);
    shadow.synchronize(1, 0x100, true, false);
    race(read(&mut shadow, 1, 2, 0, 4)).expect("nothing was released");
    shadow.fence(0, true);
    shadow.synchronize(0, 0x100, false, false);
    shadow.synchronize(1, 0x100, false, false);
    race(read(&mut shadow, 1, 3, 0, 4)).expect("nothing was acquired");
    shadow.fence(1, true);
    read(&mut shadow, 1, 4, 0, 4).expect("fence, flag, fence");
    shadow.synchronize(2, 0x100, true, false);
    read(&mut shadow, 2, 5, 0, 4).expect("an acquire");
}
