//! FP8 as the cache stores it.

use cudarc::driver::CudaSlice;
use ferroflash::{
    CacheScale, CacheWrite, Heads, KvPages, Layout, PageLayout, Positions, QuantisedPages,
    Quantized, Rope, RopeArgs, Slots, TensorView, TensorViewMut,
};
use float8::{F8E4M3, F8E5M2};
use proptest::prelude::*;

use crate::common::gpu;

/// Asserts that `got` is the value `want` or one next to it.
pub fn assert_within_a_step<C: Quantized>(got: C, want: C) -> Result<(), TestCaseError> {
    let (got, want) = (got.to_f64(), want.to_f64());
    prop_assert_eq!(got.is_nan(), want.is_nan());
    if got.is_nan() || got == want {
        return Ok(());
    }
    // Nothing of this type lies strictly between two neighbours, so the middle rounds to one of them.
    let middle = C::from_f64((got + want) / 2.0).to_f64();
    prop_assert!(middle == got || middle == want, "{} for {}", got, want);
    Ok(())
}

/// Every value of the type, what lies halfway between two, the next f32 on either side of all that, and what has no value.
fn hard_to_round<C: Quantized>(all: impl Iterator<Item = C>) -> Vec<f32> {
    let mut values: Vec<f64> = all.map(C::to_f64).filter(|x| x.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middles: Vec<f64> = values
        .windows(2)
        .map(|pair| (pair[0] + pair[1]) / 2.0)
        .collect();
    let mut hard: Vec<f32> = Vec::new();
    for x in values.into_iter().chain(middles) {
        let x = x as f32;
        hard.extend([x, x.next_up(), x.next_down()]);
    }
    let max = C::MAX;
    hard.extend([
        max * 1.03,
        max * 1.1,
        -max * 1e9,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
    ]);
    hard.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -f32::NAN,
        1e-45,
        -0.0,
        0.0,
    ]);
    hard
}

/// Sends `values` through the cache as one head of v, in chunks and element by element.
fn stored<C: Quantized>(
    values: &[f32],
    narrow: bool,
    pages: impl for<'a> Fn(QuantisedPages<'a, C>) -> KvPages<'a, f32>,
) -> Vec<C> {
    const DIM: usize = 512;
    let stream = &gpu().stream;
    let tokens = values.len().div_ceil(DIM);
    let mut data = values.to_vec();
    data.resize(tokens * DIM + 1, 0.5);
    let v = stream.clone_htod(&data).expect("memory");
    let slots: Vec<_> = (0..tokens).map(Some).collect();
    let slots = Slots::new(stream, &slots).expect("slots");
    let positions = Positions::range(0, tokens).expect("positions");
    let zeros = || stream.alloc_zeros::<f32>(tokens * DIM).expect("memory");
    let (mut q, k) = (zeros(), zeros());
    let mut k_pages: CudaSlice<C> = stream.alloc_zeros(tokens * DIM).expect("memory");
    let mut v_pages: CudaSlice<C> = stream.alloc_zeros(tokens * DIM + 1).expect("memory");
    // One element further nothing is aligned.
    let offset = usize::from(narrow);
    let shape = Layout::strided([tokens, 1, 1, DIM], [DIM, DIM, DIM, 1], offset);
    let args = RopeArgs {
        k: Some(Heads::ToCache(
            TensorView::contiguous(k.as_view(), [tokens, 1, DIM]).expect("a view"),
        )),
        cache: Some(CacheWrite {
            v: TensorView::contiguous(v.as_view(), [tokens, 1, DIM]).expect("a view"),
            pages: pages(QuantisedPages {
                k: TensorViewMut::contiguous(k_pages.as_view_mut(), [tokens, 1, 1, DIM])
                    .expect("a view"),
                v: TensorViewMut::new(v_pages.as_view_mut(), shape).expect("a view"),
                k_scale: CacheScale::Tensor(1.0),
                v_scale: CacheScale::Tensor(1.0),
            }),
            layout: PageLayout::Nhd,
            slots: &slots,
        }),
        ..RopeArgs::new(
            TensorViewMut::contiguous(q.as_view_mut(), [tokens, 1, DIM]).expect("a view"),
            None,
            &positions,
        )
    };
    gpu()
        .kernels
        .rope(stream, &Rope::default(), args)
        .expect("a launch");
    let out = stream.clone_dtoh(&v_pages).expect("download");
    out[offset..][..values.len()].to_vec()
}

fn rounds_correctly<C: Quantized>(
    all: impl Iterator<Item = C>,
    pages: impl for<'a> Fn(QuantisedPages<'a, C>) -> KvPages<'a, f32>,
) {
    let values = hard_to_round(all);
    for narrow in [false, true] {
        for (got, &x) in stored(&values, narrow, &pages).iter().zip(&values) {
            let (got, want) = (got.to_f64(), C::from_f64(x.into()).to_f64());
            let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
            assert!(same, "{x:e}: {got}, not {want}");
        }
    }
}

#[test]
fn fp8_is_rounded_to_nearest_even_and_saturates() {
    rounds_correctly((0..=u8::MAX).map(F8E4M3::from_bits), |pages| {
        KvPages::E4M3(pages)
    });
    rounds_correctly((0..=u8::MAX).map(F8E5M2::from_bits), |pages| {
        KvPages::E5M2(pages)
    });
}
