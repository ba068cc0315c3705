//! Prefill at each head dimension, with and without a mask.

use ferroflash::{Mask, Prefill, PrefillArgs, PrefillOptions};
use half::f16;

use crate::case::{Bars, Case, Device, Needed, Result, view, view_mut};

/// Queries of a block (src/attention/tiles.rs), whose K and V are read once.
const BLOCK_M: usize = 128;

/// Head dimension with its bars on sm_80.
const HEAD_DIMS: [(usize, f64, f64); 3] = [(64, 1.0, 0.78), (128, 1.0, 0.79), (256, 0.86, 0.75)];

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
                options: PrefillOptions::default(),
            };
            Ok(device.kernels.prefill(&device.stream, &op, args)?)
        }),
    })
}
