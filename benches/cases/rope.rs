//! The RoPE family on the heads of a language model: alone, and with QK-norm and the write to a paged cache.

use cudarc::driver::CudaSlice;
use ferroflash::{
    CacheScale, CacheWrite, Float, Heads, KvPages, NormWeights, PageLayout, Positions, QkNorm,
    QuantisedPages, Rope, RopeArgs, RopeStyle, Slots, WeightForm,
};
use float8::F8E4M3;
use half::{bf16, f16};

use super::{Bars, Case, Device, Needed, Result, view, view_mut};

/// Tokens, heads and their dimension.
#[derive(Debug, Clone, Copy)]
struct Shapes {
    q: [usize; 3],
    kv: [usize; 3],
}

impl Shapes {
    fn new(device: &Device) -> Self {
        let tokens = device.scale.pick(1024, 16_384);
        Self {
            q: [tokens, 32, 128],
            kv: [tokens, 8, 128],
        }
    }

    fn tokens(&self) -> usize {
        self.q[0]
    }

    fn q_len(&self) -> usize {
        self.q.iter().product()
    }

    fn kv_len(&self) -> usize {
        self.kv.iter().product()
    }

    /// The cache, in pages of 16 tokens.
    fn pages(&self) -> [usize; 4] {
        let [tokens, heads, head_dim] = self.kv;
        [tokens / 16, 16, heads, head_dim]
    }

    fn positions(&self, device: &Device) -> Result<Positions> {
        let numbers: Vec<i32> = (0..self.tokens() as i32).collect();
        Ok(Positions::new(&device.stream, &numbers)?)
    }
}

const BARS: Bars = Bars {
    traffic: 1.01,
    instructions_per_16_bytes: Some(21.0),
    load_bytes_in_flight: Some(32 * 1024),
    ..Bars::NONE
};

/// With the write to a cache; the loop has the instructions for pages of each type, of which one runs.
/// Blocks read the weights of the norm again, from L2.
const FUSED: Bars = Bars {
    traffic: 1.025,
    instructions_per_16_bytes: None,
    load_bytes_in_flight: None,
    ..BARS
};

pub fn cases(device: &Device, cases: &mut Vec<Case<'static>>) -> Result<()> {
    // For 16 bytes of a 16-bit type, read or written, PTX has 4 to 6 moves between kinds of registers and negations that
    // machine code does not need.
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        cases.push(alone::<f16>(device, style, 33.0)?);
        cases.push(alone::<bf16>(device, style, 35.0)?);
        cases.push(alone::<f32>(device, style, 21.0)?);
    }
    for (norm, [of_f16, of_bf16, of_f32, to_e4m3]) in [
        (false, [40.0, 48.0, 25.0, 80.0]),
        (true, [79.0, 86.0, 60.0, 116.5]),
    ] {
        cases.push(cached::<f16>(device, norm, false, of_f16)?);
        cases.push(cached::<bf16>(device, norm, false, of_bf16)?);
        cases.push(cached::<f32>(device, norm, false, of_f32)?);
        cases.push(cached::<bf16>(device, norm, true, to_e4m3)?);
    }
    Ok(())
}

/// `executed`: instructions of PTX for 16 bytes, at most.
fn alone<T: Float>(device: &Device, style: RopeStyle, executed: f64) -> Result<Case<'static>> {
    let shapes = Shapes::new(device);
    let mut q = device.data::<T>(shapes.q_len(), 1.0)?;
    let mut k = device.data::<T>(shapes.kv_len(), 1.0)?;
    let positions = shapes.positions(device)?;
    let op = Rope {
        style,
        ..Rope::default()
    };
    Ok(Case {
        name: format!("rope {} {style:?}", T::DTYPE),
        needed: Needed {
            bytes: 2 * (shapes.q_len() + shapes.kv_len()) * size_of::<T>(),
            flops: 0,
        },
        bars: Bars {
            executed_per_16_bytes: Some(executed),
            ..BARS
        },
        launch: Box::new(move |device| {
            let k = Some(view_mut(&mut k, shapes.kv)?);
            let args = RopeArgs::new(view_mut(&mut q, shapes.q)?, k, &positions);
            Ok(device.kernels.rope(&device.stream, &op, args)?)
        }),
    })
}

fn cached<T: Float>(
    device: &Device,
    norm: bool,
    quantised: bool,
    executed: f64,
) -> Result<Case<'static>> {
    let shapes = Shapes::new(device);
    let (tokens, q_len, kv_len) = (shapes.tokens(), shapes.q_len(), shapes.kv_len());
    let head_dim = shapes.q[2];
    let mut q = device.data::<T>(q_len, 1.0)?;
    let k = device.data::<T>(kv_len, 1.0)?;
    let v = device.data::<T>(kv_len, 1.0)?;
    let weight = device.data::<T>(head_dim, 1.0)?;
    let mut pages: [CudaSlice<T>; 2] = [device.data(kv_len, 1.0)?, device.data(kv_len, 1.0)?];
    let mut bytes: [CudaSlice<F8E4M3>; 2] = [device.data(kv_len, 1.0)?, device.data(kv_len, 1.0)?];
    let positions = shapes.positions(device)?;
    let order: Vec<_> = (0..tokens).map(|token| Some(token * 7 % tokens)).collect();
    let slots = Slots::new(&device.stream, &order)?;
    let op = Rope {
        norm: norm.then_some(QkNorm {
            eps: 1e-6,
            weight: WeightForm::Plain,
        }),
        ..Rope::default()
    };
    let stored = if quantised { 1 } else { size_of::<T>() };
    let what = if norm {
        "rope, qk-norm, cache write"
    } else {
        "rope, cache write"
    };
    Ok(Case {
        name: format!(
            "{what} {}{}",
            T::DTYPE,
            if quantised { " to e4m3" } else { "" }
        ),
        needed: Needed {
            bytes: (2 * q_len + 2 * kv_len) * size_of::<T>() + 2 * kv_len * stored,
            flops: 0,
        },
        bars: Bars {
            executed_per_16_bytes: Some(executed),
            ..FUSED
        },
        launch: Box::new(move |device| {
            let [k_pages, v_pages] = &mut pages;
            let [k_bytes, v_bytes] = &mut bytes;
            let pages = match quantised {
                false => KvPages::Same {
                    k: view_mut(k_pages, shapes.pages())?,
                    v: view_mut(v_pages, shapes.pages())?,
                },
                true => KvPages::E4M3(QuantisedPages {
                    k: view_mut(k_bytes, shapes.pages())?,
                    v: view_mut(v_bytes, shapes.pages())?,
                    k_scale: CacheScale::Tensor(0.5),
                    v_scale: CacheScale::Tensor(0.5),
                }),
            };
            let weights = match op.norm {
                Some(_) => Some(NormWeights {
                    q: Some(view(&weight, [head_dim])?),
                    k: Some(view(&weight, [head_dim])?),
                }),
                None => None,
            };
            let args = RopeArgs {
                k: Some(Heads::ToCache(view(&k, shapes.kv)?)),
                weights,
                cache: Some(CacheWrite {
                    v: view(&v, shapes.kv)?,
                    pages,
                    layout: PageLayout::Nhd,
                    slots: &slots,
                }),
                ..RopeArgs::new(view_mut(&mut q, shapes.q)?, None, &positions)
            };
            Ok(device.kernels.rope(&device.stream, &op, args)?)
        }),
    })
}
