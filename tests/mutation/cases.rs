//! Small launches of every kernel that between them take every path: what mutants are told apart by.

#[path = "norm_cases.rs"]
mod norm_cases;

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use cusim::record::Recording;
use ferroflash::{
    Element, Float, Kernels, Layout, Mask, Prefill, PrefillArgs, PrefillOptions, TensorView,
    TensorViewMut,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

#[path = "prefill_options.rs"]
mod prefill_options;
#[path = "prefill_tiles.rs"]
mod prefill_tiles;
#[path = "rope_cases.rs"]
mod rope_cases;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Launches every case on the emulator and returns the recordings of the kernels that are wanted.
pub fn record(wanted: impl Fn(&str) -> bool) -> Result<Vec<Recording>> {
    cusim::Device::select(cusim::Choice::Cusim)?;
    // So few that rows which blocks share do not all run at a time.
    cusim::set_multiprocessors(4);
    let context = CudaContext::new(0)?;
    let device = Device {
        stream: context.default_stream(),
        kernels: Kernels::load(&context)?,
    };
    let (mut recordings, mut seen) = (Vec::new(), HashSet::new());
    cusim::record(true);
    // A family is recorded, and has cases for all its kernels, where one of them is wanted.
    let (recorded, left_out): (Vec<_>, Vec<_>) = FAMILIES.iter().partition(|(family, _)| {
        Kernels::names().any(|name| name.contains(family) && wanted(name))
    });
    for part in recorded.iter().flat_map(|(_, parts)| *parts) {
        part(&device)?;
        // Gigabytes in all, so those not wanted go at once.
        for recording in cusim::take_recordings() {
            seen.insert(recording.kernel.clone());
            if wanted(&recording.kernel) {
                recordings.push(recording);
            }
        }
    }
    cusim::record(false);
    let is_left_out = |name: &str| left_out.iter().any(|(family, _)| name.contains(family));
    match Kernels::names().find(|&name| !seen.contains(name) && !is_left_out(name)) {
        Some(kernel) => Err(format!("{kernel} has no case").into()),
        None => Ok(recordings),
    }
}

/// Launches of some kernels of a family.
type Part = fn(&Device) -> Result<()>;

/// What the names of a family's kernels contain, and all its launches, in parts whose recordings fit in memory.
const FAMILIES: &[(&str, &[Part])] = &[
    (
        "prefill",
        &[
            prefill_cases::<f16>,
            prefill_cases::<bf16>,
            prefill_options::narrow::<f16>,
            prefill_options::narrow::<bf16>,
            prefill_options::all::<f16>,
            prefill_options::all::<bf16>,
            prefill_options::all::<f32>,
            prefill_tiles::all::<f16>,
            prefill_tiles::all::<bf16>,
        ],
    ),
    (
        "rope",
        &[
            rope_cases::all::<f16>,
            rope_cases::all::<bf16>,
            rope_cases::all::<f32>,
        ],
    ),
    ("norm", norm_cases::PARTS),
];

struct Device {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

/// A tensor in a buffer that ends with its last element. Between its elements is what spoils a result.
struct Tensor<T, const R: usize> {
    data: CudaSlice<T>,
    layout: Layout<R>,
}

/// Every index of a shape, the last axis fastest.
fn indices<const R: usize>(shape: [usize; R]) -> impl Iterator<Item = [usize; R]> {
    (0..shape.iter().product()).map(move |mut rest| {
        let mut index = [0; R];
        for axis in (0..R).rev() {
            index[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        index
    })
}

impl<T: Element, const R: usize> Tensor<T, R> {
    /// Row-major, with `gap` elements behind every row and one row of them behind every matrix.
    fn new(device: &Device, shape: [usize; R], gap: usize, deviation: f64) -> Result<Self> {
        let mut strides = [1; R];
        for axis in (0..R - 1).rev() {
            let behind = if axis + 2 == R {
                gap
            } else {
                strides[axis + 1] * usize::from(gap > 0)
            };
            strides[axis] = strides[axis + 1] * shape[axis + 1] + behind;
        }
        let layout = Layout::strided(shape, strides, 0);
        let mut data = vec![T::from_f64(f64::NAN); layout.span()?];
        let mut random = StdRng::seed_from_u64(shape.iter().sum::<usize>() as u64);
        for index in indices(shape) {
            let value = random.sample::<f64, _>(StandardNormal);
            data[layout.position(index)] = T::from_f64(value * deviation);
        }
        // Allocating nothing is an error.
        data.resize(data.len().max(1), T::from_f64(f64::NAN));
        let data = device.stream.clone_htod(&data)?;
        Ok(Self { data, layout })
    }

    /// Sets the elements that `value` gives something for.
    fn set(&mut self, device: &Device, value: impl Fn([usize; R]) -> Option<f64>) -> Result<()> {
        let mut data = device.stream.clone_dtoh(&self.data)?;
        for index in indices(self.layout.shape()) {
            if let Some(value) = value(index) {
                data[self.layout.position(index)] = T::from_f64(value);
            }
        }
        Ok(device.stream.memcpy_htod(&data, &mut self.data)?)
    }

    fn view(&self) -> Result<TensorView<'_, T, R>> {
        Ok(TensorView::new(self.data.as_view(), self.layout)?)
    }

    fn view_mut(&mut self) -> Result<TensorViewMut<'_, T, R>> {
        Ok(TensorViewMut::new(self.data.as_view_mut(), self.layout)?)
    }
}

/// Batch, seqlen_q, seqlen_k, heads of k, heads of q for each.
struct Shape(usize, usize, usize, usize, usize);

fn prefill_cases<T: Float>(device: &Device) -> Result<()> {
    let full = Prefill::default();
    let masked = |mask| Prefill { mask, ..full };
    let window = |left, right| {
        let (left, right) = (Some(left), Some(right));
        masked(Mask::Window { left, right })
    };
    // Wide heads, of a batch; without keys.
    prefill::<T>(
        device,
        &full,
        Shape(2, 33, 40, 1, 2),
        [512; 2],
        8,
        true,
        1.0,
    )?;
    prefill::<T>(device, &full, Shape(1, 32, 0, 1, 1), [512; 2], 0, true, 1.0)?;
    for head_dim in [64, 128, 256] {
        let run = |op: Prefill, shape, gap, lse| {
            prefill::<T>(device, &op, shape, [head_dim; 2], gap, lse, 1.0)
        };
        let capped = Prefill {
            softcap: Some(3.0),
            softmax_scale: Some(0.4),
            ..full
        };
        let negative = Prefill {
            softmax_scale: Some(-0.1),
            ..full
        };
        run(masked(Mask::Causal), Shape(2, 40, 75, 1, 2), 8, true)?;
        run(full, Shape(1, 130, 130, 1, 1), 0, false)?;
        run(window(9, 5), Shape(1, 135, 200, 2, 1), 8, true)?;
        // The first key that is seen is in an odd tile.
        run(window(30, 50), Shape(1, 20, 150, 1, 1), 8, true)?;
        // Nothing is seen by the first rows, and by the first block; by no row.
        run(masked(Mask::Causal), Shape(1, 150, 12, 1, 1), 8, true)?;
        run(full, Shape(1, 128, 0, 1, 1), 0, true)?;
        run(capped, Shape(1, 128, 66, 1, 1), 8, true)?;
        run(negative, Shape(1, 128, 66, 1, 1), 8, false)?;
        // Logits of some ten thousand: references that rest in shared memory.
        let shape = Shape(1, 20, 190, 1, 1);
        prefill::<T>(device, &full, shape, [head_dim; 2], 0, true, 4000.0)?;
        // Infinite logits, of which come NaN.
        let shape = Shape(1, 128, 9, 1, 1);
        prefill::<T>(device, &full, shape, [head_dim; 2], 0, true, f64::INFINITY)?;
        // Rows and keys that end in each pass of the copies of a tile, the first, one after a tile without
        // and one after a tile with a mask; and in each pass of the stores of a warp.
        for pass in 0..16 {
            let rows = if pass == 0 { 32 } else { 8 * pass + pass / 2 };
            let keys = 8 * (pass % 8) + 3;
            run(full, Shape(1, rows, keys, 1, 1), 0, true)?;
            if pass < 8 {
                run(full, Shape(1, 9, 128 + keys, 1, 1), 0, false)?;
                run(negative, Shape(1, 9, 64 + keys, 1, 1), 0, false)?;
            }
        }
        // Edges of a mask in every column of a tile, for rows of each kind.
        for shift in [0, 8, 16, 24] {
            run(
                window(37 + shift, 25 - shift),
                Shape(1, 128, 128, 1, 1),
                8,
                false,
            )?;
        }
    }
    Ok(())
}

fn prefill<T: Float>(
    device: &Device,
    op: &Prefill,
    Shape(batch, seqlen_q, seqlen_k, kv_heads, group): Shape,
    [head_dim, head_dim_v]: [usize; 2],
    gap: usize,
    with_lse: bool,
    spread: f64,
) -> Result<()> {
    let heads = kv_heads * group;
    let q = Tensor::<T, 4>::new(device, [batch, seqlen_q, heads, head_dim], gap, spread)?;
    let k = Tensor::<T, 4>::new(device, [batch, seqlen_k, kv_heads, head_dim], gap, 1.0)?;
    let v = Tensor::<T, 4>::new(device, [batch, seqlen_k, kv_heads, head_dim_v], gap, 2.0)?;
    let mut o = Tensor::<T, 4>::new(device, [batch, seqlen_q, heads, head_dim_v], gap, 55.0)?;
    let mut lse = Tensor::<f32, 3>::new(device, [batch, heads, seqlen_q], gap, 55.0)?;
    let args = PrefillArgs {
        q: q.view()?,
        k: k.view()?,
        v: v.view()?,
        o: o.view_mut()?,
        lse: if with_lse {
            Some(lse.view_mut()?)
        } else {
            None
        },
        options: PrefillOptions::default(),
    };
    Ok(device.kernels.prefill(&device.stream, op, args)?)
}
