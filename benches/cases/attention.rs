//! Prefill at each head dimension, with and without a mask, and with options of the kernels that have them all.

use std::num::NonZeroU32;

use cudarc::driver::CudaSlice;
use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, Mask, PageLayout, PageTable, Prefill, PrefillArgs,
    PrefillOptions, PrefillPagedArgs,
};
use half::f16;

use super::{Bars, Case, Device, Needed, Result, Scale, view, view_mut};

/// Queries of a block (src/attention/tiles.rs), whose K and V are read once.
const BLOCK_M: usize = 128;

/// Head dimension with its bars on sm_80: what the loop's instructions allow, and the replay of the kernels without and with
/// every option.
const HEAD_DIMS: [(usize, f64, [f64; 2]); 3] = [
    (64, 1.0, [0.85, 0.85]),
    (128, 1.0, [0.90, 0.90]),
    (256, 0.95, [0.80, 0.75]),
];

pub fn cases(device: &Device, cases: &mut Vec<Case<'static>>) -> Result<()> {
    for (head_dim, bound, replays) in HEAD_DIMS {
        let [bars, of_general] = replays.map(|replay| Bars {
            traffic: 1.02,
            bound: Some(bound),
            replay: Some(replay),
            ..Bars::NONE
        });
        cases.push(full(device, head_dim, bars)?);
        if device.scale == Scale::Timed {
            cases.push(causal(device, head_dim)?);
        }
        cases.push(window(device, head_dim, bars)?);
        cases.push(blocks(device, head_dim, of_general)?);
        cases.push(paged(device, head_dim, of_general)?);
    }
    for option in [Opt::Alibi, Opt::Bias, Opt::Bits] {
        for head_dim in [64, 128] {
            cases.push(with_option(device, head_dim, option)?);
        }
    }
    for [head_dim, head_dim_v] in [[192, 128], [576, 512]] {
        cases.push(pair(device, head_dim, head_dim_v)?);
    }
    Ok(())
}

/// Queries and keys of most cases, and their heads.
fn lengths(device: &Device) -> ([usize; 2], usize) {
    let counted = ([2 * BLOCK_M, 512], 1);
    device.scale.pick(counted, ([4096, 4096], 16))
}

/// One barrier for each tile of the keys that a block sees, and a few where the loop starts and ends and masks begin.
fn barriers(keys: usize, head_dim: usize) -> Option<u64> {
    let block_n = match head_dim {
        ..=64 => 64,
        65..=256 => 32,
        _ => 16,
    };
    Some(keys.div_ceil(block_n) as u64 * 11 / 10 + 10)
}

/// What such a case needs when blocks have `block_m` queries.
fn needed(device: &Device, [head_dim, head_dim_v]: [usize; 2], block_m: usize) -> Needed {
    let ([seqlen_q, seqlen_k], heads) = lengths(device);
    let columns = heads * (head_dim + head_dim_v);
    Needed {
        bytes: (seqlen_q + seqlen_q / block_m * seqlen_k) * columns * size_of::<f16>(),
        flops: (2 * seqlen_q * seqlen_k * columns) as u64,
    }
}

/// q, k, v and o of a call without pages, each with its shape.
struct Dense {
    q: (CudaSlice<f16>, [usize; 4]),
    k: (CudaSlice<f16>, [usize; 4]),
    v: (CudaSlice<f16>, [usize; 4]),
    o: (CudaSlice<f16>, [usize; 4]),
}

impl Dense {
    fn new(
        device: &Device,
        [batch, seqlen_q, seqlen_k, heads]: [usize; 4],
        [head_dim, head_dim_v]: [usize; 2],
    ) -> Result<Self> {
        let tensor = |seqlen, head_dim| -> Result<_> {
            let shape = [batch, seqlen, heads, head_dim];
            Ok((device.data::<f16>(shape.iter().product(), 1.0)?, shape))
        };
        Ok(Self {
            q: tensor(seqlen_q, head_dim)?,
            k: tensor(seqlen_k, head_dim)?,
            v: tensor(seqlen_k, head_dim_v)?,
            o: tensor(seqlen_q, head_dim_v)?,
        })
    }

    fn launch(&mut self, device: &Device, op: &Prefill, options: PrefillOptions<'_>) -> Result<()> {
        let args = PrefillArgs {
            q: view(&self.q.0, self.q.1)?,
            k: view(&self.k.0, self.k.1)?,
            v: view(&self.v.0, self.v.1)?,
            o: view_mut(&mut self.o.0, self.o.1)?,
            lse: None,
            options,
        };
        Ok(device.kernels.prefill(&device.stream, op, args)?)
    }
}

/// Keys in pages of 16, the last first.
fn paged(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (([seqlen_q, seqlen_k], heads), page_size) = (lengths(device), 16);
    let pages = seqlen_k / page_size;
    let q_shape = [seqlen_q, heads, head_dim];
    let k_shape = [pages, page_size, heads, head_dim];
    let q = device.data::<f16>(q_shape.iter().product(), 1.0)?;
    let k = device.data::<f16>(k_shape.iter().product(), 1.0)?;
    let v = device.data::<f16>(k_shape.iter().product(), 1.0)?;
    let mut o = device.data::<f16>(q_shape.iter().product(), 1.0)?;
    let numbers: Vec<i32> = (0..pages as i32).rev().collect();
    let table = PageTable::new(&device.stream, page_size, &numbers, &[seqlen_k])?;
    let cu_seqlens = CuSeqlens::from_lengths(&device.stream, &[seqlen_q])?;
    Ok(Case {
        name: format!("prefill f16 d{head_dim} paged"),
        needed: needed(device, [head_dim; 2], BLOCK_M),
        bars: Bars {
            barriers: barriers(seqlen_k, head_dim),
            flops: Some(1.0),
            ..bars
        },
        launch: Box::new(move |device| {
            let args = PrefillPagedArgs {
                q: view(&q, q_shape)?,
                k_cache: view(&k, k_shape)?,
                v_cache: view(&v, k_shape)?,
                layout: PageLayout::Nhd,
                o: view_mut(&mut o, q_shape)?,
                lse: None,
                cu_seqlens_q: &cu_seqlens,
                pages: &table,
                page_error: None,
                options: PrefillOptions::default(),
            };
            let op = Prefill::default();
            Ok(device.kernels.prefill_paged(&device.stream, &op, args)?)
        }),
    })
}

/// An option that reaches every logit.
#[derive(Debug, Clone, Copy)]
enum Opt {
    Alibi,
    Bias,
    Bits,
}

fn with_option(device: &Device, head_dim: usize, option: Opt) -> Result<Case<'static>> {
    let ([seqlen_q, seqlen_k], heads) = lengths(device);
    let mut dense = Dense::new(device, [1, seqlen_q, seqlen_k, heads], [head_dim; 2])?;
    let slopes = device.data::<f32>(heads, 0.1)?;
    let bias_shape = [1, heads, seqlen_q, seqlen_k];
    let bias_len = match option {
        Opt::Bias => bias_shape.iter().product(),
        _ => 1,
    };
    let bias = device.data::<f16>(bias_len, 1.0)?;
    let bytes = seqlen_k / 8;
    let bits = device.stream.clone_htod(&vec![0xffu8; seqlen_q * bytes])?;
    let mut needed = needed(device, [head_dim; 2], BLOCK_M);
    // A bias is read by elements, bits by words of a tile: each sector more than once.
    let traffic = match option {
        Opt::Alibi => 1.02,
        Opt::Bias => {
            needed.bytes += bias_len * size_of::<f16>();
            2.4
        }
        Opt::Bits => {
            needed.bytes += seqlen_q * bytes;
            1.2
        }
    };
    Ok(Case {
        name: format!("prefill f16 d{head_dim} {option:?}").to_lowercase(),
        needed,
        bars: Bars {
            traffic,
            barriers: barriers(seqlen_k, head_dim),
            flops: Some(1.0),
            ..Bars::NONE
        },
        launch: Box::new(move |device| {
            let mut options = PrefillOptions::default();
            match option {
                Opt::Alibi => options.alibi_slopes = Some(view(&slopes, [1, heads])?),
                Opt::Bias => options.bias = Some(Bias::F16(view(&bias, bias_shape)?)),
                Opt::Bits => options.bit_mask = Some(view(&bits, [1, seqlen_q, bytes])?),
            }
            dense.launch(device, &Prefill::default(), options)
        }),
    })
}

/// Values of another head dimension than keys.
fn pair(device: &Device, head_dim: usize, head_dim_v: usize) -> Result<Case<'static>> {
    let ([seqlen_q, seqlen_k], heads) = lengths(device);
    let lengths = [1, seqlen_q, seqlen_k, heads];
    let mut dense = Dense::new(device, lengths, [head_dim, head_dim_v])?;
    let block_m = if head_dim > 256 { 32 } else { BLOCK_M };
    Ok(Case {
        name: format!("prefill f16 d{head_dim}/{head_dim_v}"),
        needed: needed(device, [head_dim, head_dim_v], block_m),
        bars: Bars {
            traffic: 1.02,
            barriers: barriers(seqlen_k, head_dim),
            // Heads of up to 256 are computed as 256.
            flops: Some(if head_dim > 256 {
                1.0
            } else {
                512.0 / (head_dim + head_dim_v) as f64
            }),
            ..Bars::NONE
        },
        launch: Box::new(move |device| {
            dense.launch(device, &Prefill::default(), PrefillOptions::default())
        }),
    })
}

/// Columns of all heads where cases are timed, as in the measurements of FlashAttention-2 (arXiv 2307.08691, section 4.1).
const HIDDEN: usize = 2048;

fn full(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (batch, seqlen, heads) = device.scale.pick((1, 256, 2), (4, 4096, HIDDEN / head_dim));
    let elements = batch * seqlen * heads * head_dim;
    let blocks = seqlen / BLOCK_M;
    let needed = Needed {
        // Q and O once, K and V once for each block of queries.
        bytes: elements * (2 + 2 * blocks) * size_of::<f16>(),
        flops: (4 * batch * seqlen * seqlen * heads * head_dim) as u64,
    };
    let bars = Bars {
        barriers: barriers(seqlen, head_dim),
        flops: Some(1.0),
        ..bars
    };
    case(
        device,
        "full",
        [batch, seqlen, seqlen, heads, head_dim],
        Mask::Full,
        None,
        needed,
        bars,
    )
}

/// Tokens that attend to those before them.
fn causal(device: &Device, head_dim: usize) -> Result<Case<'static>> {
    let (batch, seqlen, heads) = (4, 4096, HIDDEN / head_dim);
    let needed = Needed {
        bytes: 0,
        flops: (2 * batch * seqlen * seqlen * heads * head_dim) as u64,
    };
    case(
        device,
        "causal",
        [batch, seqlen, seqlen, heads, head_dim],
        Mask::Causal,
        None,
        needed,
        Bars::NONE,
    )
}

/// A block mask of which every block of queries sees a part of the blocks of keys. The kernel with every option.
fn blocks(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (heads, query_blocks, key_blocks, seen) =
        device.scale.pick((1, 2, 16, 2), (16, 32, 64, 32));
    let (seqlen_q, seqlen_k) = (query_blocks * BLOCK_M, key_blocks * BLOCK_M);
    let block = NonZeroU32::new(BLOCK_M as u32).ok_or("an empty block")?;
    let shape = BlockShape {
        block_q: block,
        block_k: block,
        query_blocks,
        key_blocks,
    };
    let step = key_blocks / seen;
    let offsets: Vec<_> = (0..=query_blocks).map(|block| block * seen).collect();
    let rows = (0..query_blocks).flat_map(|block| (0..seen).map(move |at| (block, at)));
    let blocks: Vec<_> = rows
        .map(|(block, at)| at * step + block * 3 % step)
        .collect();
    let mask = BlockMask::new(&device.stream, shape, 1, 1, &offsets, &blocks)?;
    let row_bytes = heads * head_dim * size_of::<f16>();
    let needed = Needed {
        bytes: 2 * (seqlen_q + query_blocks * seen * BLOCK_M) * row_bytes,
        flops: (4 * seqlen_q * seen * BLOCK_M * heads * head_dim) as u64,
    };
    let bars = Bars {
        barriers: barriers(seen * BLOCK_M, head_dim),
        flops: Some(1.03),
        ..bars
    };
    case(
        device,
        "block mask",
        [1, seqlen_q, seqlen_k, heads, head_dim],
        Mask::Full,
        Some(mask),
        needed,
        bars,
    )
}

/// The last queries of a long sequence under a window: all of them see a full one.
fn window(device: &Device, head_dim: usize, bars: Bars) -> Result<Case<'static>> {
    let (seqlen_q, window, heads) = device.scale.pick((2 * BLOCK_M, 8192, 1), (4096, 8192, 16));
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
        barriers: barriers(window + BLOCK_M, head_dim),
        flops: Some(1.03),
        ..bars
    };
    case(
        device,
        "window 8192",
        [1, seqlen_q, seqlen_k, heads, head_dim],
        mask,
        None,
        needed,
        bars,
    )
}

/// One launch; shape is batch, seqlen_q, seqlen_k, heads, head_dim.
fn case(
    device: &Device,
    name: &str,
    [batch, seqlen_q, seqlen_k, heads, head_dim]: [usize; 5],
    mask: Mask,
    block_mask: Option<BlockMask>,
    needed: Needed,
    bars: Bars,
) -> Result<Case<'static>> {
    let mut dense = Dense::new(device, [batch, seqlen_q, seqlen_k, heads], [head_dim; 2])?;
    let op = Prefill {
        mask,
        ..Prefill::default()
    };
    Ok(Case {
        name: format!("prefill f16 d{head_dim} {name}"),
        needed,
        bars,
        launch: Box::new(move |device| {
            let options = PrefillOptions {
                block_mask: block_mask.as_ref(),
                ..PrefillOptions::default()
            };
            dense.launch(device, &op, options)
        }),
    })
}
