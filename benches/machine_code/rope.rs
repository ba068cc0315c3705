//! The RoPE family on the heads of a language model.

use ferroflash::{Float, Frequencies, Positions, Rope, RopeArgs, RopeStyle};
use half::{bf16, f16};

use crate::case::{Bars, Case, Device, Needed, Result, view_mut};

const TOKENS: usize = 256;
const Q_HEADS: usize = 16;
const K_HEADS: usize = 4;
const HEAD_DIM: usize = 128;

const BARS: Bars = Bars {
    traffic: 1.01,
    flops: None,
    bound: None,
    replay: None,
    instructions_per_16_bytes: Some(21.0),
    load_bytes_in_flight: Some(32 * 1024),
};

pub fn cases(device: &Device, cases: &mut Vec<Case<'_>>) -> Result<()> {
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        cases.push(rope::<f16>(device, style)?);
        cases.push(rope::<bf16>(device, style)?);
        cases.push(rope::<f32>(device, style)?);
    }
    Ok(())
}

fn rope<T: Float>(device: &Device, style: RopeStyle) -> Result<Case<'static>> {
    let mut q = device.filled::<T>(TOKENS * Q_HEADS * HEAD_DIM, 0.5)?;
    let mut k = device.filled::<T>(TOKENS * K_HEADS * HEAD_DIM, 0.5)?;
    let numbers: Vec<i32> = (0..TOKENS as i32).collect();
    let positions = Positions::new(&device.stream, &numbers)?;
    let op = Rope {
        style,
        rotary_dim: None,
        frequencies: Frequencies::Base {
            base: 10_000.0,
            scale: 1.0,
        },
    };
    Ok(Case {
        name: format!("rope {} {style:?}", T::DTYPE),
        needed: Needed {
            bytes: 2 * TOKENS * (Q_HEADS + K_HEADS) * HEAD_DIM * size_of::<T>(),
            flops: 0,
        },
        bars: BARS,
        launch: Box::new(move |device| {
            let args = RopeArgs {
                q: view_mut(&mut q, [TOKENS, Q_HEADS, HEAD_DIM])?,
                k: Some(view_mut(&mut k, [TOKENS, K_HEADS, HEAD_DIM])?),
                positions: &positions,
                table: None,
            };
            Ok(device.kernels.rope(&device.stream, &op, args)?)
        }),
    })
}
