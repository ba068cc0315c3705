//! Positions and slots that point nowhere: refused by the host, or left out by the kernel and told of.

use ferroflash::metadata::Number;
use ferroflash::{
    CacheWrite, CuSeqlens, Error, FaultyIndex, Frequencies, Heads, IndexFault, IndexFaults,
    KvPages, PageLayout, Position, Positions, Rope, RopeArgs, RopeTable, Slots, TensorView,
    TensorViewMut,
};

use crate::common::gpu;

const DIM: usize = 16;
const TOKENS: usize = 6;
const PAGES: [usize; 4] = [3, 2, 1, DIM];

/// q (in place) and the pages of k and v after a call in which everything else is in order. q, k and v are ones.
#[derive(Debug, PartialEq)]
struct After {
    q: Vec<f32>,
    pages: [Vec<f32>; 2],
}

/// Slots 0..6 in three pages of two, and a table of four positions if asked for.
fn run(
    positions: &Positions,
    slots: &Slots,
    table: bool,
    faults: Option<&mut IndexFaults>,
) -> Result<After, Error> {
    let stream = &gpu().stream;
    let ones = || stream.clone_htod(&[1f32; TOKENS * DIM]).expect("memory");
    let zeros = || stream.alloc_zeros::<f32>(TOKENS * DIM).expect("memory");
    let (mut q, k, v) = (ones(), ones(), ones());
    let (mut k_pages, mut v_pages) = (zeros(), zeros());
    let angles = stream.clone_htod(&[0.5f32; 4 * DIM]).expect("memory");
    let shape = [TOKENS, 1, DIM];
    let view = |data| TensorView::contiguous(data, shape).expect("a view");
    let pages = |data| TensorViewMut::contiguous(data, PAGES).expect("a view");
    let op = Rope {
        frequencies: if table {
            Frequencies::Table
        } else {
            Frequencies::default()
        },
        ..Rope::default()
    };
    let angles = TensorView::contiguous(angles.as_view(), [4, 2, DIM / 2]).expect("a view");
    let args = RopeArgs {
        k: Some(Heads::ToCache(view(k.as_view()))),
        table: table.then_some(RopeTable::F32(angles)),
        cache: Some(CacheWrite {
            v: view(v.as_view()),
            pages: KvPages::Same {
                k: pages(k_pages.as_view_mut()),
                v: pages(v_pages.as_view_mut()),
            },
            layout: PageLayout::Nhd,
            slots,
        }),
        faults,
        ..RopeArgs::new(
            TensorViewMut::contiguous(q.as_view_mut(), shape).expect("a view"),
            None,
            positions,
        )
    };
    gpu().kernels.rope(stream, &op, args)?;
    let download = |data| stream.clone_dtoh(data).expect("download");
    Ok(After {
        q: download(&q),
        pages: [download(&k_pages), download(&v_pages)],
    })
}

fn checked<P: Position>(positions: &[P]) -> Positions {
    let device = gpu().stream.clone_htod(positions).expect("memory");
    Positions::checked_on_device(device, 1, TOKENS).expect("positions")
}

fn slots(slots: [i64; TOKENS]) -> Slots {
    let device = gpu().stream.clone_htod(&slots).expect("memory");
    Slots::checked_on_device(device, TOKENS).expect("slots")
}

const EACH: [i64; TOKENS] = [0, 1, 2, 3, 4, 5];

/// Runs with indices of which those of the `bad` tokens point outside, and checks that these tokens are left out and no others.
fn left_out(positions: &Positions, slots: &Slots, table: bool, bad: &[usize], index: FaultyIndex) {
    let stream = &gpu().stream;
    let good = Positions::range(0, TOKENS).expect("positions");
    let every: Vec<_> = (0..TOKENS).map(Some).collect();
    let every = Slots::new(stream, &every).expect("slots");
    let mut faults = IndexFaults::new(stream).expect("memory");
    assert_eq!(faults.first(stream), Ok(None));
    let got = run(positions, slots, table, Some(&mut faults)).expect("a launch");
    let first = IndexFault {
        token: bad[0],
        index,
    };
    assert_eq!(faults.first(stream), Ok(Some(first)));
    faults.clear(stream).expect("memory");
    assert_eq!(faults.first(stream), Ok(None));
    if table {
        return;
    }
    let want = run(&good, &every, false, None).expect("a launch");
    for token in 0..TOKENS {
        let row = token * DIM..(token + 1) * DIM;
        if bad.contains(&token) {
            assert!(
                got.q[row.clone()].iter().all(|&x| x == 1.0),
                "token {token}"
            );
            assert!(
                got.pages
                    .iter()
                    .all(|pages| pages[row.clone()].iter().all(|&x| x == 0.0))
            );
        } else {
            assert_eq!(got.q[row.clone()], want.q[row.clone()], "token {token}");
            for (got, want) in got.pages.iter().zip(&want.pages) {
                assert_eq!(got[row.clone()], want[row.clone()], "token {token}");
            }
        }
    }
}

#[test]
fn kernels_leave_out_tokens_whose_positions_they_refuse() {
    let each = slots(EACH);
    let refused = |positions: &Positions, bad: &[usize]| {
        left_out(positions, &each, false, bad, FaultyIndex::Position);
    };
    refused(&checked(&[0, 1, -1, 3, 4, i32::MIN]), &[2, 5]);
    refused(&checked(&[0, 1, 2, 3, i64::MAX, 5]), &[4]);
    refused(&checked(&[1i64 << 36, 1, 2, 3, 4, -9]), &[0, 5]);
    refused(
        &checked(&[0.0, f32::NAN, 2.0, 3.0, f32::INFINITY, 5.0]),
        &[1, 4],
    );
    refused(&checked(&[0.0, 1.0, 2.0, -7e10, 4.0, 7e10]), &[3, 5]);
    // Past the end of a table, which must not be read.
    let past = checked(&[0, 3, 4, 1, 2, i32::MAX]);
    left_out(&past, &each, true, &[2, 5], FaultyIndex::Position);
}

#[test]
fn kernels_leave_out_tokens_whose_slots_they_refuse() {
    let positions = Positions::range(0, TOKENS).expect("positions");
    let bad = slots([0, 6, 2, -2, 4, i64::MIN]);
    left_out(&positions, &bad, false, &[1, 3, 5], FaultyIndex::Slot);
    let bad = slots([0, 1, 2, 3, 4, i64::MAX]);
    left_out(&positions, &bad, false, &[5], FaultyIndex::Slot);
}

#[test]
fn nothing_is_told_of_indices_in_range() {
    let stream = &gpu().stream;
    let mut faults = IndexFaults::new(stream).expect("memory");
    let whole = checked(&[0, 1, 2, 3, 4, 5]);
    // -1 is no fault: the token is not written.
    let after = run(
        &whole,
        &slots([0, 1, -1, 3, 4, 5]),
        false,
        Some(&mut faults),
    );
    let pages = after.expect("a launch").pages;
    assert_eq!(faults.first(stream), Ok(None));
    assert!(pages[1][2 * DIM..3 * DIM].iter().all(|&x| x == 0.0));
    assert!(pages[1][3 * DIM..].iter().all(|&x| x == 1.0));
}

#[test]
#[allow(unsafe_code)]
fn promised_indices_are_followed() {
    let stream = &gpu().stream;
    let range = Positions::range(0, TOKENS).expect("positions");
    let want = run(
        &range,
        &slots(EACH),
        false,
        Some(&mut IndexFaults::new(stream).expect("memory")),
    );
    let device = stream.clone_htod(&[0i64, 1, 2, 3, 4, 5]).expect("memory");
    // SAFETY: positions 0 to 5 without a table, and slots 0 to 5 of six.
    let (positions, slots) = unsafe {
        (
            Positions::from_device_unchecked(device.clone(), 1, TOKENS).expect("positions"),
            Slots::from_device_unchecked(device, TOKENS).expect("slots"),
        )
    };
    assert_eq!(run(&positions, &slots, false, None), want);
}

#[test]
fn checked_indices_need_a_word_for_faults() {
    let range = Positions::range(0, TOKENS).expect("positions");
    let missing = |result: Result<After, Error>, want| {
        assert!(
            matches!(result, Err(Error::OperandMissing { operand: "faults", option }) if option == want),
            "{result:?}"
        );
    };
    let slots = slots(EACH);
    missing(
        run(&range, &slots, false, None),
        "slots are checked on the device",
    );
    missing(
        run(&checked(&[0; TOKENS]), &slots, false, None),
        "positions are checked on the device",
    );
}

#[test]
fn the_host_refuses_positions_that_no_kernel_takes() {
    let stream = &gpu().stream;
    let refused = |result: Result<Positions, Error>| match result {
        Err(Error::PositionOutOfRange {
            index, position, ..
        }) => (index, position),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(Positions::new(stream, &[3, -1])),
        (1, Number::Whole(-1))
    );
    let far = 1i64 << 36;
    assert_eq!(
        refused(Positions::new(stream, &[far])),
        (0, Number::Whole(far))
    );
    assert_eq!(
        refused(Positions::new(stream, &[0.0, -7e10])),
        (1, Number::Real(-7e10))
    );
    assert_eq!(refused(Positions::new(stream, &[f32::NAN])).0, 0);
    let last = far as usize - 1;
    assert_eq!(refused(Positions::range(last, 2)).0, 1);
    assert!(Positions::range(last, 1).is_ok());
    assert!(Positions::range(usize::MAX, 0).is_ok());
    let sequences = CuSeqlens::from_lengths(stream, &[2, 0, 3]).expect("lengths");
    let packed = |offsets: &[usize]| Positions::packed(stream, &sequences, offsets);
    assert_eq!(refused(packed(&[0, 0, last])).0, 4);
    assert!(packed(&[0, usize::MAX, 7]).is_ok());
    assert!(matches!(
        packed(&[0, 0]),
        Err(Error::ShapeMismatch {
            operand: "offsets",
            ..
        })
    ));
    for axes in [0, 5] {
        let result = Positions::with_axes(stream, axes, &[0; 20]);
        assert!(matches!(
            result,
            Err(Error::InvalidOption { name: "axes", .. })
        ));
    }
    let uneven = Positions::with_axes(stream, 3, &[0; 4]);
    assert!(matches!(
        uneven,
        Err(Error::InvalidOption { name: "axes", .. })
    ));
    let short = stream.alloc_zeros::<i32>(5).expect("memory");
    let short = Positions::checked_on_device(short, 2, 3);
    assert!(matches!(
        short,
        Err(Error::ShapeMismatch {
            operand: "positions",
            ..
        })
    ));
}

#[test]
fn the_host_refuses_slots_outside_the_cache() {
    let stream = &gpu().stream;
    let refused = |slots: &[Option<usize>]| match Slots::new(stream, slots) {
        Err(Error::InvalidSlot { index, .. }) => index,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&[Some(1), None, Some(1)]), 2);
    assert_eq!(refused(&[Some(usize::MAX)]), 0);
    let range = Positions::range(0, TOKENS).expect("positions");
    let past: Vec<_> = (1..=TOKENS).map(Some).collect();
    let past = Slots::new(stream, &past).expect("slots");
    let requirement = "must lie in the pages of the cache";
    let error = Error::InvalidSlot {
        index: 5,
        slot: 6,
        requirement,
    };
    assert_eq!(run(&range, &past, false, None), Err(error));
    let few = Slots::new(stream, &[None]).expect("slots");
    let result = run(&range, &few, false, None);
    assert!(
        matches!(
            result,
            Err(Error::ShapeMismatch {
                operand: "slots",
                ..
            })
        ),
        "{result:?}"
    );
    let short = stream.alloc_zeros::<i64>(2).expect("memory");
    assert!(Slots::checked_on_device(short, 3).is_err());
}
