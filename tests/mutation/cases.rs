//! Small launches of every kernel that between them take every path: what mutants are told apart by.

#[path = "norm_cases.rs"]
mod norm_cases;

use std::error::Error;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use cusim::record::Recording;
use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, Element, Float, Kernels, Layout, Mask, PageLayout,
    PageTable, Prefill, PrefillArgs, PrefillOptions, PrefillPagedArgs, PrefillVarlenArgs,
    TensorView, TensorViewMut,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

#[path = "rope_cases.rs"]
mod rope_cases;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Launches every case on the emulator and returns the recordings.
pub fn record() -> Result<Vec<Recording>> {
    cusim::Device::select(cusim::Choice::Cusim)?;
    let context = CudaContext::new(0)?;
    let device = Device {
        stream: context.default_stream(),
        kernels: Kernels::load(&context)?,
    };
    cusim::record(true);
    prefill_cases::<f16>(&device)?;
    prefill_cases::<bf16>(&device)?;
    option_cases::<f16>(&device)?;
    option_cases::<bf16>(&device)?;
    option_cases::<f32>(&device)?;
    norm_cases::record(&device)?;
    rope_cases::all::<f16>(&device)?;
    rope_cases::all::<bf16>(&device)?;
    rope_cases::all::<f32>(&device)?;
    let recordings = cusim::take_recordings();
    cusim::record(false);
    let without_case = Kernels::names().find(|name| {
        !recordings
            .iter()
            .any(|recording| recording.kernel == **name)
    });
    match without_case {
        Some(kernel) => Err(format!("{kernel} has no case").into()),
        None => Ok(recordings),
    }
}

struct Device {
    stream: Arc<CudaStream>,
    kernels: Kernels,
}

/// A tensor in a buffer that ends with its last element. Between its elements is what spoils a result.
struct Tensor<T, const R: usize> {
    data: CudaSlice<T>,
    layout: Layout<R>,
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
        for linear in 0..layout.len()? {
            let mut rest = linear;
            let mut index = [0; R];
            for axis in (0..R).rev() {
                index[axis] = rest % shape[axis];
                rest /= shape[axis];
            }
            let value = random.sample::<f64, _>(StandardNormal);
            data[layout.position(index)] = T::from_f64(value * deviation);
        }
        // Allocating nothing is an error.
        data.resize(data.len().max(1), T::from_f64(f64::NAN));
        let data = device.stream.clone_htod(&data)?;
        Ok(Self { data, layout })
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
    for head_dim in [64, 128, 256] {
        let run = |op: Prefill, shape, gap, lse| {
            prefill::<T>(device, &op, shape, head_dim, gap, lse, 1.0)
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
        // Infinite logits, of which come NaN.
        let shape = Shape(1, 128, 9, 1, 1);
        prefill::<T>(device, &full, shape, head_dim, 0, true, f64::INFINITY)?;
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
    head_dim: usize,
    gap: usize,
    with_lse: bool,
    spread: f64,
) -> Result<()> {
    let heads = kv_heads * group;
    let q = Tensor::<T, 4>::new(device, [batch, seqlen_q, heads, head_dim], gap, spread)?;
    let k = Tensor::<T, 4>::new(device, [batch, seqlen_k, kv_heads, head_dim], gap, 1.0)?;
    let v = Tensor::<T, 4>::new(device, [batch, seqlen_k, kv_heads, head_dim], gap, 2.0)?;
    let mut o = Tensor::<T, 4>::new(device, [batch, seqlen_q, heads, head_dim], gap, 55.0)?;
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

/// Two requests, packed or in pages, with every option by turns, of heads for each of the kernels that have them.
fn option_cases<T: Float>(device: &Device) -> Result<()> {
    let size = |n: u32| n.try_into().expect("not 0");
    let masks = [
        Mask::Causal,
        Mask::Window {
            left: Some(9),
            right: Some(4),
        },
        Mask::Chunked {
            size: size(11),
            causal: false,
        },
        Mask::PrefixLm,
        Mask::Full,
    ];
    for (turn, mask) in masks.into_iter().enumerate() {
        let op = Prefill {
            mask,
            sink_tokens: [0, 3][turn % 2],
            softmax_scale: [None, Some(-0.2)][turn / 2 % 2],
            softcap: [None, Some(3.0)][turn / 3 % 2],
        };
        for (head_dim, head_dim_v) in [(40, 64), (72, 128), (248, 256), (576, 512)] {
            options_case::<T>(device, &op, turn, head_dim, head_dim_v)?;
        }
    }
    // Rows that end in each pass of the copies, and every head dimension of a square.
    for (rows, head_dim_v) in [(15, 8), (16, 120), (17, 264), (33, 504)] {
        let q = Tensor::<T, 3>::new(device, [rows, 3, 24], 0, 1.0)?;
        let k = Tensor::<T, 3>::new(device, [19, 1, 24], 0, 1.0)?;
        let v = Tensor::<T, 3>::new(device, [19, 1, head_dim_v], 0, 1.0)?;
        packed(
            device,
            &Prefill::default(),
            &q,
            &k,
            &v,
            [&[rows], &[19]],
            PrefillOptions::default(),
        )?;
    }
    Ok(())
}

fn options_case<T: Float>(
    device: &Device,
    op: &Prefill,
    turn: usize,
    head_dim: usize,
    head_dim_v: usize,
) -> Result<()> {
    const Q_LENS: [usize; 2] = [37, 9];
    const K_LENS: [usize; 2] = [21, 60];
    let stream = &device.stream;
    let size = |n: u32| n.try_into().expect("not 0");
    let q = Tensor::<T, 3>::new(device, [46, 4, head_dim], 8, 1.0)?;
    let k = Tensor::<T, 3>::new(device, [81, 2, head_dim], 8, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [81, 2, head_dim_v], 8, 2.0)?;
    let sinks = Tensor::<f32, 1>::new(device, [4], 0, 2.0)?;
    let slopes = Tensor::<f32, 2>::new(device, [2, 4], 1, 0.2)?;
    let biases = (
        Tensor::<f16, 4>::new(device, [1, 4, 46, 64], 3, 1.0)?,
        Tensor::<bf16, 4>::new(device, [1, 4, 46, 64], 0, 1.0)?,
        Tensor::<f32, 4>::new(device, [1, 4, 46, 64], 1, 1.0)?,
    );
    let prefixes = stream.clone_htod(&[5, 70])?;
    let mut random = StdRng::seed_from_u64(turn as u64);
    let bits: Vec<u8> = (0..46 * 8).map(|_| random.random()).collect();
    let bits = stream.clone_htod(&bits)?;
    let shape = BlockShape {
        block_q: size(5),
        block_k: size(7),
        query_blocks: 10,
        key_blocks: 40,
    };
    let (mut offsets, mut listed) = (vec![0], Vec::new());
    for _ in 0..2 * 2 * shape.query_blocks {
        listed.extend((0..shape.key_blocks).filter(|_| random.random_bool(0.4)));
        offsets.push(listed.len());
    }
    let blocks = BlockMask::new(stream, shape, 2, 2, &offsets, &listed)?;
    let options = || -> Result<PrefillOptions<'_>> {
        Ok(PrefillOptions {
            sinks: (turn != 1).then(|| sinks.view()).transpose()?,
            alibi_slopes: (turn % 2 == 0).then(|| slopes.view()).transpose()?,
            bias: match turn {
                0 => Some(Bias::F16(biases.0.view()?)),
                1 => Some(Bias::BF16(biases.1.view()?)),
                2 => Some(Bias::F32(biases.2.view()?)),
                _ => None,
            },
            prefix_lens: match op.mask {
                Mask::PrefixLm => Some(TensorView::contiguous(prefixes.as_view(), [2])?),
                _ => None,
            },
            bit_mask: match turn {
                2 | 3 => Some(TensorView::contiguous(bits.as_view(), [1, 46, 8])?),
                _ => None,
            },
            block_mask: (turn > 2).then_some(&blocks),
        })
    };
    packed(device, op, &q, &k, &v, [&Q_LENS, &K_LENS], options()?)?;
    paged(
        device,
        op,
        &q,
        [&Q_LENS, &K_LENS],
        [head_dim, head_dim_v],
        options()?,
    )
}

fn packed<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    k: &Tensor<T, 3>,
    v: &Tensor<T, 3>,
    [q_lens, k_lens]: [&[usize]; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let [tokens, heads, _] = q.layout.shape();
    let head_dim_v = v.layout.shape()[2];
    let mut o = Tensor::<T, 3>::new(device, [tokens, heads, head_dim_v], 8, 55.0)?;
    let mut lse = Tensor::<f32, 2>::new(device, [heads, tokens], 1, 55.0)?;
    let cu_seqlens_q = CuSeqlens::from_lengths(&device.stream, q_lens)?;
    let cu_seqlens_k = CuSeqlens::from_lengths(&device.stream, k_lens)?;
    let args = PrefillVarlenArgs {
        q: q.view()?,
        k: k.view()?,
        v: v.view()?,
        o: o.view_mut()?,
        lse: Some(lse.view_mut()?),
        cu_seqlens_q: &cu_seqlens_q,
        cu_seqlens_k: &cu_seqlens_k,
        options,
    };
    Ok(device.kernels.prefill_varlen(&device.stream, op, args)?)
}

/// Pages of 6 keys, of which one does not exist.
fn paged<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    [q_lens, k_lens]: [&[usize]; 2],
    [head_dim, head_dim_v]: [usize; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let stream = &device.stream;
    let [tokens, heads, _] = q.layout.shape();
    let k = Tensor::<T, 4>::new(device, [16, 2, 6, head_dim], 0, 1.0)?;
    let v = Tensor::<T, 4>::new(device, [16, 2, 6, head_dim_v], 8, 1.0)?;
    let mut o = Tensor::<T, 3>::new(device, [tokens, heads, head_dim_v], 0, 55.0)?;
    let table: Vec<i32> = (0..20).map(|i| i * 7 % 17).collect();
    let lens: Vec<i32> = k_lens.iter().map(|&len| len as i32).collect();
    let pages =
        PageTable::from_device(6, 10, stream.clone_htod(&table)?, stream.clone_htod(&lens)?)?;
    let mut error = stream.alloc_zeros::<i32>(1)?;
    let cu_seqlens_q = CuSeqlens::from_lengths(stream, q_lens)?;
    let args = PrefillPagedArgs {
        q: q.view()?,
        k_cache: k.view()?,
        v_cache: v.view()?,
        layout: PageLayout::Hnd,
        o: o.view_mut()?,
        lse: None,
        cu_seqlens_q: &cu_seqlens_q,
        pages: &pages,
        page_error: Some(TensorViewMut::contiguous(error.as_view_mut(), [1])?),
        options,
    };
    Ok(device.kernels.prefill_paged(stream, op, args)?)
}
