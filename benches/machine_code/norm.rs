//! The RMSNorm family at the width of a language model.

use ferroflash::{Float, RmsNorm, WeightForm};
use half::{bf16, f16};

use crate::case::{Bars, Case, Device, Needed, Result, view, view_mut};

const ROWS: usize = 128;
const WIDTH: usize = 4096;

const BARS: Bars = Bars {
    traffic: 1.01,
    flops: None,
    bound: None,
    replay: None,
    instructions_per_16_bytes: Some(20.0),
    load_bytes_in_flight: Some(32 * 1024),
};

pub fn cases(device: &Device, cases: &mut Vec<Case<'_>>) -> Result<()> {
    cases.push(rms_norm::<f16>(device)?);
    cases.push(rms_norm::<bf16>(device)?);
    cases.push(rms_norm::<f32>(device)?);
    Ok(())
}

fn rms_norm<T: Float>(device: &Device) -> Result<Case<'static>> {
    let x = device.filled::<T>(ROWS * WIDTH, 0.5)?;
    let weight = device.filled::<T>(WIDTH, 0.5)?;
    let mut out = device.filled::<T>(ROWS * WIDTH, 0.0)?;
    let op = RmsNorm {
        eps: 1e-6,
        weight: WeightForm::Plain,
    };
    Ok(Case {
        name: format!("rms_norm {} width {WIDTH}", T::DTYPE),
        needed: Needed {
            // Every block reads the weight, from L2.
            bytes: (2 * ROWS * WIDTH + ROWS * WIDTH) * size_of::<T>(),
            flops: 0,
        },
        bars: BARS,
        launch: Box::new(move |device| {
            let (x, weight) = (view(&x, [ROWS, WIDTH])?, view(&weight, [WIDTH])?);
            let out = view_mut(&mut out, [ROWS, WIDTH])?;
            Ok(device
                .kernels
                .rms_norm(&device.stream, &op, x, weight, out)?)
        }),
    })
}
