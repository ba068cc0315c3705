//! Options that do not fit get a typed error that names them, and nothing is launched.

use std::num::NonZeroU32;

use crate::common::{Arrangement, Host, gpu};
use cudarc::driver::CudaSlice;
use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, Error, Layout, Mask, PageLayout, PageTable, Prefill,
    PrefillArgs, PrefillInPlaceArgs, PrefillOptions, PrefillPagedArgs, PrefillVarlenArgs,
    TensorView, TensorViewMut, Unsupported,
};
use half::f16;

fn zeros<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits>(
    len: usize,
) -> CudaSlice<T> {
    gpu().stream.alloc_zeros(len).expect("memory")
}

fn view<T, const R: usize>(data: &CudaSlice<T>, shape: [usize; R]) -> TensorView<'_, T, R> {
    TensorView::contiguous(data.as_view(), shape).expect("a view")
}

fn view_mut<T, const R: usize>(
    data: &mut CudaSlice<T>,
    shape: [usize; R],
) -> TensorViewMut<'_, T, R> {
    TensorViewMut::contiguous(data.as_view_mut(), shape).expect("a view")
}

fn mismatch(
    operand: &'static str,
    axis: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), Error> {
    Err(Error::ShapeMismatch {
        operand,
        axis,
        expected,
        found,
    })
}

/// 2 requests of 3 queries of 4 heads over 20 keys of 2 heads.
fn with_options(op: &Prefill, options: PrefillOptions<'_>) -> Result<(), Error> {
    let (q, kv) = (zeros::<f16>(2 * 3 * 4 * 64), zeros::<f16>(2 * 20 * 2 * 64));
    let mut o = zeros::<f16>(2 * 3 * 4 * 64);
    let args = PrefillArgs {
        q: view(&q, [2, 3, 4, 64]),
        k: view(&kv, [2, 20, 2, 64]),
        v: view(&kv, [2, 20, 2, 64]),
        o: view_mut(&mut o, [2, 3, 4, 64]),
        lse: None,
        options,
    };
    gpu().kernels.prefill(&gpu().stream, op, args)
}

#[test]
fn operands_of_options_must_have_their_shapes() {
    let op = Prefill::default();
    let floats = zeros::<f32>(1000);
    let bytes = zeros::<u8>(100);
    let sinks = |heads| PrefillOptions {
        sinks: Some(view(&floats, [heads])),
        ..PrefillOptions::default()
    };
    assert_eq!(with_options(&op, sinks(4)), Ok(()));
    assert_eq!(
        with_options(&op, sinks(2)),
        mismatch("sinks", "heads", 4, 2)
    );
    let slopes = |shape| PrefillOptions {
        alibi_slopes: Some(view(&floats, shape)),
        ..PrefillOptions::default()
    };
    assert_eq!(with_options(&op, slopes([2, 4])), Ok(()));
    assert_eq!(
        with_options(&op, slopes([1, 4])),
        mismatch("alibi_slopes", "batch", 2, 1)
    );
    assert_eq!(
        with_options(&op, slopes([2, 5])),
        mismatch("alibi_slopes", "heads", 4, 5)
    );
    let bias = |shape| PrefillOptions {
        bias: Some(Bias::F32(view(&floats, shape))),
        ..PrefillOptions::default()
    };
    assert_eq!(with_options(&op, bias([2, 4, 3, 20])), Ok(()));
    assert_eq!(with_options(&op, bias([2, 4, 3, 21])), Ok(()));
    assert_eq!(
        with_options(&op, bias([2, 4, 3, 19])),
        mismatch("bias", "seqlen_k", 20, 19)
    );
    assert_eq!(
        with_options(&op, bias([2, 4, 2, 20])),
        mismatch("bias", "seqlen_q", 3, 2)
    );
    let bits = |shape| PrefillOptions {
        bit_mask: Some(view(&bytes, shape)),
        ..PrefillOptions::default()
    };
    assert_eq!(with_options(&op, bits([2, 3, 3])), Ok(()));
    assert_eq!(
        with_options(&op, bits([2, 3, 2])),
        mismatch("bit_mask", "bytes", 3, 2)
    );
    assert_eq!(
        with_options(&op, bits([2, 4, 3])),
        mismatch("bit_mask", "seqlen_q", 3, 4)
    );
    let strided = Layout::strided([2, 3, 3], [18, 6, 2], 0);
    let strided = TensorView::new(bytes.as_view(), strided).expect("a view");
    let options = PrefillOptions {
        bit_mask: Some(strided),
        ..PrefillOptions::default()
    };
    let refused = Err(Error::LastDimensionStrided {
        operand: "bit_mask",
        stride: 2,
    });
    assert_eq!(with_options(&op, options), refused);
}

#[test]
fn block_masks_must_cover_the_call() {
    let op = Prefill::default();
    let run = |batch, heads, query_blocks, key_blocks| {
        let size = |n| NonZeroU32::new(n).expect("not 0");
        let shape = BlockShape {
            block_q: size(2),
            block_k: size(16),
            query_blocks,
            key_blocks,
        };
        let offsets = vec![0; batch * heads * query_blocks + 1];
        let mask =
            BlockMask::new(&gpu().stream, shape, batch, heads, &offsets, &[]).expect("valid");
        let options = PrefillOptions {
            block_mask: Some(&mask),
            ..PrefillOptions::default()
        };
        with_options(&op, options)
    };
    assert_eq!(run(1, 1, 2, 2), Ok(()));
    assert_eq!(run(2, 2, 3, 4), Ok(()));
    assert_eq!(run(3, 1, 2, 2), mismatch("block_mask", "batch", 2, 3));
    assert_eq!(run(1, 4, 2, 2), mismatch("block_mask", "heads", 2, 4));
    assert_eq!(
        run(1, 1, 1, 2),
        mismatch("block_mask", "query blocks", 2, 1)
    );
    assert_eq!(run(1, 1, 2, 1), mismatch("block_mask", "key blocks", 2, 1));
}

#[test]
fn prefixes_come_exactly_with_a_prefix_mask() {
    let prefixes = zeros::<i32>(3);
    let given = |requests| PrefillOptions {
        prefix_lens: Some(view(&prefixes, [requests])),
        ..PrefillOptions::default()
    };
    let masked = |mask| Prefill {
        mask,
        ..Prefill::default()
    };
    let refused = Err(Error::OperandMismatch {
        operand: "prefix_lens",
        requirement: "must be given exactly for Mask::PrefixLm",
    });
    assert_eq!(with_options(&masked(Mask::PrefixLm), given(2)), Ok(()));
    assert_eq!(
        with_options(&masked(Mask::PrefixLm), given(3)),
        mismatch("prefix_lens", "batch", 2, 3)
    );
    assert_eq!(
        with_options(&masked(Mask::PrefixLm), PrefillOptions::default()),
        refused
    );
    assert_eq!(with_options(&masked(Mask::Causal), given(2)), refused);
}

#[test]
fn output_over_queries_must_fit() {
    let mut qo = zeros::<f16>(3 * 4 * 64);
    let kv = zeros::<f16>(20 * 2 * 64);
    let args = PrefillInPlaceArgs {
        qo: view_mut(&mut qo, [1, 3, 4, 64]),
        k: view(&kv, [1, 20, 2, 64]),
        v: view(&kv, [1, 20, 2, 32]),
        lse: None,
        options: PrefillOptions::default(),
    };
    let result = gpu()
        .kernels
        .prefill_in_place(&gpu().stream, &Prefill::default(), args);
    let refused = Unsupported::InPlace {
        op: "prefill",
        head_dim: 64,
        head_dim_v: 32,
    };
    assert_eq!(result, Err(refused.into()));
}

#[test]
fn packed_tensors_must_hold_their_requests() {
    let (q, kv) = (zeros::<f16>(5 * 4 * 64), zeros::<f16>(20 * 2 * 64));
    let run = |q_lens: &[usize], k_lens: &[usize]| {
        let mut o = zeros::<f16>(5 * 4 * 64);
        let lengths = |lens| CuSeqlens::from_lengths(&gpu().stream, lens).expect("valid lengths");
        let (cu_seqlens_q, cu_seqlens_k) = (lengths(q_lens), lengths(k_lens));
        let args = PrefillVarlenArgs {
            q: view(&q, [5, 4, 64]),
            k: view(&kv, [20, 2, 64]),
            v: view(&kv, [20, 2, 64]),
            o: view_mut(&mut o, [5, 4, 64]),
            lse: None,
            cu_seqlens_q: &cu_seqlens_q,
            cu_seqlens_k: &cu_seqlens_k,
            options: PrefillOptions::default(),
        };
        gpu()
            .kernels
            .prefill_varlen(&gpu().stream, &Prefill::default(), args)
    };
    assert_eq!(run(&[2, 3], &[0, 20]), Ok(()));
    assert_eq!(run(&[2, 4], &[0, 20]), mismatch("q", "tokens", 6, 5));
    assert_eq!(run(&[2, 3], &[1, 20]), mismatch("k", "tokens", 21, 20));
    assert_eq!(
        run(&[2, 3], &[20]),
        mismatch("cu_seqlens_k", "requests", 2, 1)
    );
}

/// A call over 4 pages of 8 keys.
fn paged(table: &PageTable, error: Option<&mut CudaSlice<i32>>) -> Result<Vec<f16>, Error> {
    let stream = &gpu().stream;
    let q = zeros::<f16>(2 * 64);
    // What lies around the cache must not be read: NaN.
    let nan = vec![f16::NAN; 6 * 8 * 64];
    let mut cache = nan.clone();
    cache[8 * 64..5 * 8 * 64].fill(f16::ONE);
    let kv = stream.clone_htod(&cache).expect("memory");
    let layout = Layout::strided([4, 8, 1, 64], [8 * 64, 64, 64, 1], 8 * 64);
    let cache = || TensorView::new(kv.as_view(), layout).expect("a view");
    let mut o = zeros::<f16>(2 * 64);
    let cu_seqlens_q = CuSeqlens::from_lengths(stream, &[1, 1]).expect("valid lengths");
    let args = PrefillPagedArgs {
        q: view(&q, [2, 1, 64]),
        k_cache: cache(),
        v_cache: cache(),
        layout: PageLayout::Nhd,
        o: view_mut(&mut o, [2, 1, 64]),
        lse: None,
        cu_seqlens_q: &cu_seqlens_q,
        pages: table,
        page_error: error.map(|error| view_mut(error, [1])),
        options: PrefillOptions::default(),
    };
    gpu()
        .kernels
        .prefill_paged(stream, &Prefill::default(), args)?;
    Ok(stream.clone_dtoh(&o).expect("a download"))
}

#[test]
fn page_tables_are_held_to_the_cache() {
    let stream = &gpu().stream;
    let table = |pages: &[i32]| PageTable::new(stream, 8, pages, &[16, 8]).expect("valid");
    let ones = vec![f16::ONE; 2 * 64];
    assert_eq!(paged(&table(&[3, 1, 0, -7]), None), Ok(ones));
    let outside = Error::PageOutOfRange {
        request: 0,
        index: 1,
        page: 4,
        num_pages: 4,
    };
    assert_eq!(paged(&table(&[3, 4, 0, -7]), None), Err(outside));
    let other = PageTable::new(stream, 4, &[0; 8], &[16, 8]).expect("valid");
    assert_eq!(
        paged(&other, None).map(drop),
        mismatch("k", "page_size", 4, 8)
    );
    let one = PageTable::new(stream, 8, &[0], &[8]).expect("valid");
    assert_eq!(
        paged(&one, None).map(drop),
        mismatch("page_table", "requests", 2, 1)
    );
}

#[test]
fn kernels_refuse_pages_that_are_not_there() {
    let stream = &gpu().stream;
    let upload = |numbers: &[i32]| stream.clone_htod(numbers).expect("memory");
    let run = |pages: &[i32], lens: &[i32]| {
        let table = PageTable::from_device(8, 2, upload(pages), upload(lens)).expect("a table");
        let mut error = zeros::<i32>(1);
        let o = paged(&table, Some(&mut error)).expect("a launch");
        let error = stream.clone_dtoh(&error).expect("a download");
        (error[0], o[0], o[64])
    };
    let (one, zero) = (f16::ONE, f16::ZERO);
    assert_eq!(run(&[3, 1, 0, -7], &[16, 8]), (0, one, one));
    // A page just past the end, one before the start, one that would wrap. The other request is served.
    for wrong in [4, -1, i32::MAX, i32::MIN] {
        let (error, _, o) = run(&[3, wrong, 0, -7], &[16, 8]);
        assert_eq!((error, o), (1, one), "page {wrong}");
        let (error, o, _) = run(&[3, 1, wrong, 0], &[16, 8]);
        assert_eq!((error, o), (2, one), "page {wrong}");
    }
    // Lengths beyond the table are cut, negative ones count as none.
    assert_eq!(run(&[3, 1, 0, 2], &[17, i32::MAX]), (0, one, one));
    assert_eq!(run(&[3, 1, 0, 2], &[-1, i32::MIN]), (0, zero, zero));
}

#[test]
fn an_error_word_comes_exactly_with_an_unknown_table() {
    let stream = &gpu().stream;
    let refused = Err(Error::OperandMismatch {
        operand: "page_error",
        requirement: "must be given exactly for a PageTable::from_device",
    });
    let known = PageTable::new(stream, 8, &[0; 4], &[16, 8]).expect("valid");
    let mut error = zeros::<i32>(1);
    assert_eq!(paged(&known, Some(&mut error)), refused);
    let unknown = PageTable::from_device(8, 2, zeros(4), zeros(2)).expect("a table");
    assert_eq!(paged(&unknown, None), refused);
    let short = PageTable::from_device(8, 2, zeros(3), zeros(2)).map(drop);
    assert_eq!(short, mismatch("page_table", "entries", 4, 3));
}

#[test]
fn queries_without_keys_give_their_sink() {
    let sinks = Host::<f32, 1>::new(&Arrangement::plain(1), [4], 0.0, || -2.5);
    let sinks_data = sinks.upload();
    let (q, kv) = (zeros::<f16>(3 * 4 * 64), zeros::<f16>(64));
    let mut o = gpu()
        .stream
        .clone_htod(&[f16::ONE; 3 * 4 * 64])
        .expect("memory");
    let mut lse = zeros::<f32>(12);
    let args = PrefillArgs {
        q: view(&q, [1, 3, 4, 64]),
        k: view(&kv, [1, 0, 2, 64]),
        v: view(&kv, [1, 0, 2, 64]),
        o: view_mut(&mut o, [1, 3, 4, 64]),
        lse: Some(view_mut(&mut lse, [1, 4, 3])),
        options: PrefillOptions {
            sinks: Some(sinks.view(&sinks_data)),
            ..PrefillOptions::default()
        },
    };
    let stream = &gpu().stream;
    gpu()
        .kernels
        .prefill(stream, &Prefill::default(), args)
        .expect("a launch");
    assert_eq!(
        stream.clone_dtoh(&o).expect("a download"),
        [f16::ZERO; 3 * 4 * 64]
    );
    assert_eq!(stream.clone_dtoh(&lse).expect("a download"), [-2.5; 12]);
}
