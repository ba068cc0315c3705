//! Prefill at each head dimension, with and without a mask.

use std::num::NonZeroU32;

use ferroflash::{BlockMask, BlockShape, Mask, Prefill, PrefillArgs, PrefillOptions};
use half::f16;

use crate::case::{Bars, Case, Device, Needed, Result, view, view_mut};

/// Queries of a block (src/attention/tiles.rs), whose K and V are read once.
const BLOCK_M: usize = 128;

/// Head dimension with its bars on sm_80.
const HEAD_DIMS: [(usize, f64, f64); 3] = [(64, 1.0, 0.85), (128, 1.0, 0.90), (256, 0.95, 0.80)];

pub fn cases(device: &Device, cases: &mut Vec<Case<'_>>) -> Result<()> {
    for (head_dim, bound, replay) in HEAD_DIMS {
        let bars = Bars {
            traffic: 1.02,
            bound: Some(bound),
            replay: Some(replay),
            ..Bars::default()
        };
        cases.push(full(device, head_dim, bars)?);
        cases.push(window(device, head_dim, bars)?);
        cases.push(blocks(device, head_dim)?);
    }
    Ok(())
}

fn full(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (seqlen, heads) = (256, 2);
    let elements = seqlen * heads * head_dim;
    let blocks = seqlen / BLOCK_M;
    let needed = Needed {
        // Q and O once, K and V once for each block of queries.
        bytes: elements * (2 + 2 * blocks) * size_of::<f16>(),
        flops: (4 * seqlen * seqlen * heads * head_dim) as u64,
    };
    let bars = Bars {
        flops: Some(1.0),
        ..bars
    };
    case(
        device,
        "full",
        [seqlen, seqlen, heads, head_dim],
        Mask::Full,
        None,
        needed,
        bars,
    )
}

/// A block mask of which every block of queries sees two blocks of keys of sixteen. The kernel with every option.
fn blocks(device: &Device, head_dim: usize) -> Result<Case<'static>> {
    let (heads, query_blocks, key_blocks, seen) = (1, 2, 16, 2);
    let (seqlen_q, seqlen_k) = (query_blocks * BLOCK_M, key_blocks * BLOCK_M);
    let block = NonZeroU32::new(BLOCK_M as u32).ok_or("an empty block")?;
    let shape = BlockShape {
        block_q: block,
        block_k: block,
        query_blocks,
        key_blocks,
    };
    let mask = BlockMask::new(&device.stream, shape, 1, 1, &[0, 2, 4], &[0, 7, 3, 15])?;
    let row_bytes = heads * head_dim * size_of::<f16>();
    let needed = Needed {
        bytes: 2 * (seqlen_q + query_blocks * seen * BLOCK_M) * row_bytes,
        flops: (4 * seqlen_q * seen * BLOCK_M * heads * head_dim) as u64,
    };
    let bars = Bars {
        // Every lane reads the words of the mask for its keys, from the first-level cache; sectors are counted before it.
        traffic: 1.35,
        flops: Some(1.03),
        ..Bars::default()
    };
    case(
        device,
        "block mask",
        [seqlen_q, seqlen_k, heads, head_dim],
        Mask::Full,
        Some(mask),
        needed,
        bars,
    )
}

/// The last queries of a long sequence under a window: all of them see a full one.
fn window(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (seqlen_q, window, heads) = (2 * BLOCK_M, 8192, 1);
    let seqlen_k = window + seqlen_q;
    let needed = Needed {
        // A block reads what its first or its last query sees.
        bytes: 2 * (seqlen_q + 2 * (window + BLOCK_M - 1)) * heads * head_dim * size_of::<f16>(),
        flops: (4 * seqlen_q * window * heads * head_dim) as u64,
    };
    let mask = Mask::Window {
        left: Some(window as u32 - 1),
        right: Some(0),
    };
    let bars = Bars {
        flops: Some(1.03),
        ..bars
    };
    case(
        device,
        "window 8192",
        [seqlen_q, seqlen_k, heads, head_dim],
        mask,
        None,
        needed,
        bars,
    )
}

/// One launch; shape is seqlen_q, seqlen_k, heads, head_dim.
fn case(
    device: &Device,
    name: &str,
    [seqlen_q, seqlen_k, heads, head_dim]: [usize; 4],
    mask: Mask,
    block_mask: Option<BlockMask>,
    needed: Needed,
    bars: Bars,
) -> Result<Case<'static>> {
    let (q_shape, k_shape) = (
        [1, seqlen_q, heads, head_dim],
        [1, seqlen_k, heads, head_dim],
    );
    let q = device.filled::<f16>(q_shape.iter().product(), 0.1)?;
    let k = device.filled::<f16>(k_shape.iter().product(), 0.1)?;
    let v = device.filled::<f16>(k_shape.iter().product(), 0.1)?;
    let mut o = device.filled::<f16>(q_shape.iter().product(), 0.0)?;
    let op = Prefill {
        mask,
        ..Prefill::default()
    };
    Ok(Case {
        name: format!("prefill f16 d{head_dim} {name}"),
        needed,
        bars,
        launch: Box::new(move |device| {
            let args = PrefillArgs {
                q: view(&q, q_shape)?,
                k: view(&k, k_shape)?,
                v: view(&v, k_shape)?,
                o: view_mut(&mut o, q_shape)?,
                lse: None,
                options: PrefillOptions {
                    block_mask: block_mask.as_ref(),
                    ..PrefillOptions::default()
                },
            };
            Ok(device.kernels.prefill(&device.stream, &op, args)?)
        }),
    })
}
