//! RoPE's.

use ferroflash::rope::scaling;
use ferroflash::{
    Axes, CacheScale, CacheWrite, CuSeqlens, DType, Direction, Element, Float, Frequencies, Heads,
    IndexFaults, KvPages, NormWeights, PageLayout, Position, Positions, QkNorm, QuantisedPages,
    Rope, RopeArgs, RopeStyle, RopeTable, Slots, WeightForm,
};
use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Device, Result, Tensor};

/// Positions of a table.
const TABLE: usize = 40;

pub fn all<T: Float>(device: &Device) -> Result<()> {
    shapes::<T>(device)?;
    let norm = QkNorm {
        eps: 1e-5,
        weight: WeightForm::Plain,
    };
    options::<T>(device, None, None)?;
    options::<T>(device, Some(norm), None)?;
    options::<T>(device, None, Some(CACHE))?;
    norms::<T>(device)?;
    caches::<T>(device)?;
    cached_heads::<T>(device)?;
    tables::<T>(device)?;
    faults::<T>(device)?;
    many_tokens::<T>(device)
}

const STYLES: [RopeStyle; 2] = [RopeStyle::HalfSplit, RopeStyle::Interleaved];

/// A call that differs from the usual one in a few things.
#[derive(Clone)]
struct Call {
    op: Rope,
    /// Tokens, heads of q, of k, elements of a head.
    shape: [usize; 4],
    gap: usize,
    deviation: f64,
    in_place: bool,
    table: DType,
    cache: Option<Cache>,
    weights: bool,
}

#[derive(Clone, Copy)]
struct Cache {
    dtype: Option<DType>,
    page_size: usize,
    layout: PageLayout,
    per_head: bool,
    checked: bool,
    /// Whether k goes there only.
    only: bool,
}

const CACHE: Cache = Cache {
    dtype: None,
    page_size: 3,
    layout: PageLayout::Nhd,
    per_head: false,
    checked: false,
    only: true,
};

impl Call {
    fn new(op: &Rope, shape: [usize; 4]) -> Self {
        Self {
            op: op.clone(),
            shape,
            gap: 0,
            deviation: 1.0,
            in_place: true,
            table: DType::F32,
            cache: None,
            weights: true,
        }
    }
}

fn with(style: RopeStyle, frequencies: Frequencies) -> Rope {
    Rope {
        style,
        frequencies,
        ..Rope::default()
    }
}

/// Every way in which heads and tokens are divided, in place.
fn shapes<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    for style in STYLES {
        for frequencies in [Frequencies::default(), Frequencies::Table] {
            let op = with(style, frequencies);
            let part = |dim| Rope {
                rotary_dim: Some(dim),
                ..op.clone()
            };
            let run = |op: &Rope, shape, gap| {
                let call = Call::new(op, shape);
                run::<T>(device, &Call { gap, ..call })
            };
            run(&op, [3, 5, 2, 8 * chunk], chunk)?;
            run(&part(4 * chunk), [2, 9, 0, 6 * chunk], 0)?;
            run(&op, [2, 0, 3, 2 * chunk], 0)?;
            run(&op, [3, 5, 2, 10], 3)?;
            run(&part(6), [2, 9, 0, 9], 0)?;
            run(&op, [2, 0, 3, 6], 1)?;
            // Heads that end in each of a thread's slots.
            for heads in 1..=9 {
                run(&op, [1, heads, 10 - heads, 2 * chunk], 0)?;
                run(&op, [1, heads, 10 - heads, 2], 0)?;
            }
            // So many tokens that a block has several, and the last block not all.
            run(&part(2 * chunk), [1031, 1, 1, 2 * chunk], 0)?;
            run(&op, [1031, 1, 1, 10], 0)?;
            // So many heads that a thread visits several lots of them.
            run(&op, [1, 37, 61, 64 * chunk], 0)?;
            for heads in [40, 48, 56] {
                run(&op, [1, heads, 0, 64 * chunk], 0)?;
            }
            for [q_heads, k_heads] in [[29, 21], [30, 23], [31, 24]] {
                run(&op, [1, q_heads, k_heads, 2 * 200], 1)?;
            }
            // More threads for a token than pairs.
            run(&op, [2, 40, 8, 2 * chunk], 0)?;
            run(&op, [2, 40, 8, 2], 0)?;
        }
    }
    // Lots of heads that end in each of a thread's slots, of which most is copied.
    let copied = |rotary_dim, head_dim| -> Result<()> {
        let op = Rope {
            rotary_dim: Some(rotary_dim),
            ..Rope::default()
        };
        for [q_heads, k_heads] in [[9, 10], [11, 12]] {
            let call = Call::new(&op, [1, q_heads, k_heads, head_dim]);
            run::<T>(
                device,
                &Call {
                    in_place: false,
                    ..call
                },
            )?;
        }
        Ok(())
    };
    copied(2 * chunk, 261 * chunk)?;
    copied(2, 261)
}

/// Every option of angles and positions, and copying, in the kernel alone and in each half of the fused one.
fn options<T: Float>(device: &Device, norm: Option<QkNorm>, cache: Option<Cache>) -> Result<()> {
    let run = |call: &Call| {
        run::<T>(
            device,
            &Call {
                cache,
                ..call.clone()
            },
        )
    };
    let chunk = 16 / size_of::<T>();
    for (style, dim) in [
        (STYLES[0], 8 * chunk),
        (STYLES[1], 8 * chunk),
        (STYLES[0], 22),
        (STYLES[1], 22),
    ] {
        let op = Rope {
            norm,
            ..with(style, Frequencies::default())
        };
        let pairs = dim / 2;
        let table = Rope {
            frequencies: Frequencies::Table,
            ..op.clone()
        };
        let shape = [3, 2, 1, dim];
        for dtype in [DType::F16, DType::BF16] {
            let call = Call::new(&table, shape);
            run(&Call {
                table: dtype,
                ..call
            })?;
        }
        let yarn = scaling::yarn(1e4, dim, &scaling::Yarn::new(16.0, 64))?;
        for direction in [Direction::Forward, Direction::Inverse] {
            let op = Rope {
                direction,
                frequencies: Frequencies::Explicit(yarn.clone()),
                ..op.clone()
            };
            run(&Call::new(&op, shape))?;
        }
        for axes in [
            Axes::Sections(vec![1, 2, pairs - 3]),
            Axes::Interleaved(vec![pairs - 2 * (pairs / 3), pairs / 3, pairs / 3]),
            Axes::Separate(vec![
                pairs / 4,
                pairs / 4,
                pairs / 4,
                pairs - 3 * (pairs / 4),
            ]),
        ] {
            let op = Rope { axes, ..op.clone() };
            run(&Call::new(&op, shape))?;
        }
        // Elsewhere: the rest before, behind and on both sides of what is rotated, even and odd.
        let unit = if dim == 22 { 1 } else { chunk };
        for (dim, offset, head_dim) in [
            (4, 2, 10),
            (4, 2, 8),
            (4, 0, 8),
            (4, 4, 8),
            (2, 1, 6),
            (6, 0, 9),
            (8, 0, 8),
        ] {
            let op = Rope {
                rotary_dim: Some(dim * unit),
                rotary_offset: offset * unit,
                ..op.clone()
            };
            let call = Call::new(&op, [2, 5, 2, head_dim * unit]);
            run(&Call {
                in_place: false,
                gap: unit,
                ..call.clone()
            })?;
            run(&call)?;
        }
        positions::<T>(device, &op, dim, cache)?;
    }
    Ok(())
}

fn positions<T: Float>(device: &Device, op: &Rope, dim: usize, cache: Option<Cache>) -> Result<()> {
    let stream = &device.stream;
    let run = |op: &Rope, positions: Positions| {
        let call = Call::new(op, [positions.len(), 1, 1, dim]);
        run_at::<T>(device, &Call { cache, ..call }, &positions)
    };
    run(op, Positions::new(stream, &[5i64, 1 << 33, 77_777])?)?;
    run(op, Positions::new(stream, &[0.5f32, -1000.25, 3.0])?)?;
    run(
        op,
        Positions::new(stream, &[0.1f64, -1e9 / 3.0, 1e6 / 7.0, -1e-12, 4.0])?,
    )?;
    run(op, Positions::range(1_000_003, 5)?)?;
    for lengths in [
        vec![3, 0, 2, 1, 4],
        vec![1],
        vec![1, 2],
        vec![0, 0, 2],
        vec![2, 0, 0],
        vec![1, 1, 1, 1],
    ] {
        let sequences = CuSeqlens::from_lengths(stream, &lengths)?;
        let offsets: Vec<usize> = (0..lengths.len()).map(|s| 1000 * s + 7).collect();
        run(op, Positions::packed(stream, &sequences, &offsets)?)?;
    }
    let fast = Rope {
        frequencies: Frequencies::Base {
            base: 3.0,
            scale: -3.0,
        },
        ..op.clone()
    };
    run(&fast, Positions::new(stream, &[0.3f64, -1000.7, 12.9])?)?;
    // Checked: at the ends of what is allowed and just past them.
    let limit = 1i64 << 36;
    let checked = |op: &Rope, positions: Result<Positions>| run(op, positions?);
    checked(op, on_device(device, &[0, -1, 5, i32::MIN, i32::MAX]))?;
    checked(op, on_device(device, &[limit - 1, limit, -1, 5, i64::MAX]))?;
    checked(op, on_device(device, &[0, 1, 2, limit + 5]))?;
    let real = limit as f64;
    checked(
        op,
        on_device(device, &[real, -real, real + 1.0, -real - 1.0, f64::NAN]),
    )?;
    // Half of the first one is a NaN of f32.
    let whole = f64::from_bits(1f64.to_bits() + 0x7fff_ffff);
    checked(op, on_device(device, &[whole, 2.0, f64::NAN]))?;
    checked(op, on_device(device, &[0.5f32, f32::INFINITY, 2.0]))?;
    let table = Rope {
        frequencies: Frequencies::Table,
        ..op.clone()
    };
    let last = TABLE as i32 - 1;
    checked(&table, on_device(device, &[last, 3, last + 1, -1, 0]))?;
    let axes = Rope {
        axes: Axes::Sections(vec![1, dim / 2 - 1]),
        ..op.clone()
    };
    let device_positions = stream.clone_htod(&[1i32, 2, 3, 4, -5, 6])?;
    checked(
        &axes,
        Ok(Positions::checked_on_device(device_positions, 2, 3)?),
    )?;
    // Every type on two axes.
    let long = [5i64, 1 << 33, 77_777, 4];
    run(&axes, Positions::with_axes(stream, 2, &long)?)?;
    let real = [0.5f32, -1000.25, 3.0, 7.75];
    run(&axes, Positions::with_axes(stream, 2, &real)?)?;
    let real = [0.1f64, -1e9 / 3.0, 1e6 / 7.0, 4.0];
    run(&axes, Positions::with_axes(stream, 2, &real)?)
}

fn on_device<P: Position>(device: &Device, positions: &[P]) -> Result<Positions> {
    let slice = device.stream.clone_htod(positions)?;
    Ok(Positions::checked_on_device(slice, 1, positions.len())?)
}

/// The norm in heads of every number of lanes, and what its squares may come to.
fn norms<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let norm = |weight, eps| Some(QkNorm { eps, weight });
    for (style, form) in [
        (STYLES[0], WeightForm::Plain),
        (STYLES[1], WeightForm::OnePlus),
    ] {
        let op = Rope {
            style,
            norm: norm(form, 1e-5),
            ..Rope::default()
        };
        // 1 to 64 lanes in 16-byte chunks; 1 to 256 lanes of single elements.
        let wide = [1, 2, 3, 4, 6, 8, 16, 20, 32, 48].map(|columns| 2 * columns * chunk);
        for dim in wide.into_iter().chain([2, 4, 6, 14, 22, 40, 78, 130, 270]) {
            let op = Rope {
                rotary_dim: Some(dim.min(512)),
                ..op.clone()
            };
            run::<T>(device, &Call::new(&op, [2, 3, 1, dim]))?;
        }
        // Heads that end in each slot, several lots, several tokens to a block.
        for heads in 1..=5 {
            run::<T>(device, &Call::new(&op, [1, heads, 6 - heads, 2 * chunk]))?;
        }
        run::<T>(device, &Call::new(&op, [1, 37, 11, 64 * chunk]))?;
        run::<T>(device, &Call::new(&op, [1, 21, 0, 202]))?;
        // As many threads as pairs, in single elements.
        let call = Call::new(&op, [2, 1, 0, 64]);
        run::<T>(device, &Call { gap: 1, ..call })?;
        let long = Rope {
            rotary_dim: Some(64),
            ..op.clone()
        };
        run::<T>(device, &Call::new(&long, [1, 9, 4, 96 * chunk]))?;
        // With threads too many beside one that visits two lots.
        run::<T>(device, &Call::new(&op, [1031, 1, 3, 2 * chunk]))?;
        run::<T>(device, &Call::new(&op, [1031, 1, 0, 6]))?;
        // A part of the head, elsewhere and in place.
        for in_place in [true, false] {
            for (dim, offset, head_dim) in [(4 * chunk, 2 * chunk, 9 * chunk), (4, 3, 11)] {
                let op = Rope {
                    rotary_dim: Some(dim),
                    rotary_offset: offset,
                    ..op.clone()
                };
                let call = Call::new(&op, [2, 3, 2, head_dim]);
                run::<T>(
                    device,
                    &Call {
                        in_place,
                        ..call.clone()
                    },
                )?;
                run::<T>(
                    device,
                    &Call {
                        weights: false,
                        ..call
                    },
                )?;
            }
        }
        for deviation in [1e25, 1e-25, 3e38] {
            let tiny = Rope {
                norm: norm(form, 0.0),
                ..op.clone()
            };
            // Every number of lanes, for one of the deviations.
            let more = [1, 4, 8, 16, 32].map(|columns| 2 * columns * chunk);
            let more = more.into_iter().chain([2, 4, 6, 14, 62]);
            let more = more.filter(|_| deviation == 1e25);
            for dim in [4 * chunk, 96 * chunk, 22, 130].into_iter().chain(more) {
                let tiny = Rope {
                    rotary_dim: Some(dim.min(512)),
                    ..tiny.clone()
                };
                let call = Call::new(&tiny, [2, 3, 1, dim]);
                run::<T>(device, &Call { deviation, ..call })?;
            }
            // Two heads each of threads side by side, over several warps.
            let wide = Rope {
                rotary_dim: Some(130),
                ..tiny.clone()
            };
            let call = Call::new(&wide, [1, 2, 2, 130]);
            run::<T>(device, &Call { deviation, ..call })?;
            let call = Call::new(&op, [2, 1, 3, 4 * chunk]);
            run::<T>(
                device,
                &Call {
                    deviation,
                    cache: Some(CACHE),
                    ..call
                },
            )?;
        }
    }
    Ok(())
}

/// Every kind of page.
fn caches<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let norm = Some(QkNorm {
        eps: 1e-5,
        weight: WeightForm::Plain,
    });
    for style in STYLES {
        for norm in [None, norm] {
            let op = Rope {
                style,
                norm,
                ..Rope::default()
            };
            for dtype in [None, Some(DType::F8E4M3), Some(DType::F8E5M2)] {
                let cache = Cache { dtype, ..CACHE };
                let variants = [
                    cache,
                    Cache {
                        page_size: 1,
                        layout: PageLayout::Hnd,
                        per_head: true,
                        ..cache
                    },
                    Cache {
                        checked: true,
                        only: false,
                        ..cache
                    },
                ];
                for cache in variants {
                    for dim in [6 * chunk, 8 * chunk, 10] {
                        let call = Call::new(&op, [4, 5, 4, dim]);
                        run::<T>(
                            device,
                            &Call {
                                cache: Some(cache),
                                ..call
                            },
                        )?;
                    }
                }
                // A part of the head: the rest of q stays, the rest of k goes along.
                for (dim, offset, head_dim) in [
                    (2 * chunk, chunk, 6 * chunk),
                    (2, 2, 5),
                    (2 * chunk, 0, 5 * chunk),
                ] {
                    let op = Rope {
                        rotary_dim: Some(dim),
                        rotary_offset: offset,
                        ..op.clone()
                    };
                    for only in [true, false] {
                        let cache = Some(Cache { only, ..cache });
                        let call = Call::new(&op, [2, 5, 8, head_dim]);
                        run::<T>(
                            device,
                            &Call {
                                cache,
                                gap: chunk,
                                ..call
                            },
                        )?;
                    }
                }
            }
            // Several tokens to a block; no room for threads of each of q, k and v; several lots.
            let cache = Some(CACHE);
            for dim in [2 * chunk, 6] {
                let call = Call::new(&op, [1031, 1, 1, dim]);
                run::<T>(device, &Call { cache, ..call })?;
            }
            let long = Rope {
                rotary_dim: Some(8),
                ..op.clone()
            };
            for shape in [
                [2, 1, 1, 255],
                [1, 9, 10, 255],
                [1, 11, 12, 255],
                [1, 11, 9, 64 * chunk],
                [1, 0, 5, 3 * chunk],
            ] {
                let call = Call::new(&long, shape);
                run::<T>(device, &Call { cache, ..call })?;
            }
        }
    }
    Ok(())
}

/// Cached heads that end in each of a thread's slots, in one lot and in several, with and without a thread too many.
fn cached_heads<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let norm = QkNorm {
        eps: 1e-5,
        weight: WeightForm::Plain,
    };
    for norm in [None, Some(norm)] {
        for dtype in [None, Some(DType::F8E4M3), Some(DType::F8E5M2)] {
            for heads in [1, 2, 3, 5, 6, 7] {
                let cache = Cache {
                    dtype,
                    per_head: heads % 2 == 1,
                    only: heads % 2 == 0,
                    ..CACHE
                };
                // 128 columns: no block has threads of q, k and v.
                for unit in [1, chunk] {
                    let op = Rope {
                        norm,
                        rotary_dim: Some(2 * unit),
                        ..Rope::default()
                    };
                    let call = Call::new(&op, [1, heads, heads, 256 * unit]);
                    let cache = Some(cache);
                    run::<T>(device, &Call { cache, ..call })?;
                }
            }
        }
    }
    // Lots full of heads that end in one chunk of the rest and go elsewhere.
    for unit in [1, chunk] {
        let op = Rope {
            rotary_dim: Some(2 * unit),
            ..Rope::default()
        };
        let call = Call {
            in_place: false,
            cache: Some(Cache {
                only: false,
                ..CACHE
            }),
            ..Call::new(&op, [1, 4, 4, 5 * unit])
        };
        run::<T>(device, &call)?;
    }
    Ok(())
}

/// Several tokens to a block, and warps that have more of them, or less, than one.
fn many_tokens<T: Float>(device: &Device) -> Result<()> {
    let chunk = 16 / size_of::<T>();
    let norm = QkNorm {
        eps: 1e-5,
        weight: WeightForm::Plain,
    };
    for (norm, cache) in [(None, None), (None, Some(CACHE)), (Some(norm), None)] {
        let op = Rope {
            norm,
            ..Rope::default()
        };
        let call = |shape| Call {
            cache,
            ..Call::new(&op, shape)
        };
        let q_heads = usize::from(cache.is_none());
        // Checked, and the last block not all.
        let positions: Vec<i32> = (0..1031).collect();
        let positions = on_device(device, &positions)?;
        for unit in [1, chunk] {
            run_at::<T>(device, &call([1031, q_heads, 1, 2 * unit]), &positions)?;
        }
        for unit in [1, chunk] {
            // Two warps for two tokens, the second of four lanes.
            run::<T>(device, &call([1024, q_heads, 1, 18 * unit]))?;
            // Three warps for two tokens.
            run::<T>(device, &call([1024, q_heads, 1, 34 * unit]))?;
        }
        // More pairs than a warp has lanes.
        if norm.is_some() {
            run::<T>(device, &call([1024, 1, 0, 66]))?;
        }
    }
    Ok(())
}

/// Slots and positions checked, and positions that are right where a slot is not.
fn faults<T: Float>(device: &Device) -> Result<()> {
    let norm = QkNorm {
        eps: 1e-5,
        weight: WeightForm::Plain,
    };
    let cache = Cache {
        checked: true,
        ..CACHE
    };
    for (norm, dim) in [(None, 32), (None, 22), (Some(norm), 32), (Some(norm), 22)] {
        let op = Rope {
            norm,
            axes: Axes::Sections(vec![1, dim / 2 - 1]),
            ..Rope::default()
        };
        let call = Call {
            cache: Some(cache),
            ..Call::new(&op, [3, 1, 1, dim])
        };
        let stream = &device.stream;
        let whole = stream.clone_htod(&[1i64, 2, 3, 4, 5, 6])?;
        let whole = Positions::checked_on_device(whole, 2, 3)?;
        run_at::<T>(device, &call, &whole)?;
        let real = stream.clone_htod(&[1.5f64, 2.0, 3.0, 4.0, 5.0, 6.25])?;
        let real = Positions::checked_on_device(real, 2, 3)?;
        run_at::<T>(device, &call, &real)?;
    }
    Ok(())
}

fn tables<T: Float>(device: &Device) -> Result<()> {
    // Positions that end with each number of pairs in their last chunk.
    let short = (1..=6).map(|pairs| (2, pairs, 0, 3));
    // What lies behind the pairs is nobody's.
    let short = short.chain((1..=7).map(|pairs| (2, pairs, 8, 3)));
    let long = [
        (3, 64, 0, 0),
        (5, 7, 0, 1000),
        (2, 20, 3, 1 << 33),
        (70, 32, 8, 5),
    ];
    for (positions, pairs, gap, first) in short.chain(long) {
        let op = Rope {
            frequencies: Frequencies::Explicit(scaling::yarn(
                1e4,
                2 * pairs,
                &scaling::Yarn::new(16.0, 64),
            )?),
            ..Rope::default()
        };
        let mut table = Tensor::<T, 3>::new(device, [positions, 2, pairs], gap, 1.0)?;
        device
            .kernels
            .rope_table(&device.stream, &op, first, table.view_mut()?)?;
    }
    Ok(())
}

fn run<T: Float>(device: &Device, call: &Call) -> Result<()> {
    let tokens = call.shape[0];
    let is_table = call.op.frequencies == Frequencies::Table;
    let mut random = StdRng::seed_from_u64(tokens as u64);
    let largest = if is_table { TABLE as i32 - 1 } else { i32::MAX };
    let axes = call.op.axes.count();
    let numbers: Vec<i32> = (0..axes * tokens)
        .map(|_| random.random_range(0..=largest))
        .collect();
    let positions = Positions::with_axes(&device.stream, axes, &numbers)?;
    run_at::<T>(device, call, &positions)
}

fn run_at<T: Float>(device: &Device, call: &Call, positions: &Positions) -> Result<()> {
    let [tokens, q_heads, k_heads, head_dim] = call.shape;
    let is_table = call.op.frequencies == Frequencies::Table;
    let pairs = call.op.rotary_dim.unwrap_or(head_dim) / 2;
    let new = |heads, deviation| {
        Tensor::<T, 3>::new(device, [tokens, heads, head_dim], call.gap, deviation)
    };
    let out = |heads| Tensor::<T, 3>::new(device, [tokens, heads, head_dim], 2 * call.gap, 55.0);
    // Where the squares of q leave the range of f32, those of k do not.
    let mut q = new(q_heads, call.deviation)?;
    let mut k = new(k_heads, call.deviation.sqrt())?;
    let v = new(k_heads, call.deviation)?;
    let (mut q_out, mut k_out) = (out(q_heads)?, out(k_heads)?);
    let shape = [TABLE, 2, pairs];
    let f32_table = Tensor::<f32, 3>::new(device, shape, 0, 0.7)?;
    let f16_table = Tensor::<f16, 3>::new(device, shape, 0, 0.7)?;
    let bf16_table = Tensor::<bf16, 3>::new(device, shape, 0, 0.7)?;
    let table = match call.table {
        _ if !is_table => None,
        DType::F16 => Some(RopeTable::F16(f16_table.view()?)),
        DType::BF16 => Some(RopeTable::BF16(bf16_table.view()?)),
        _ => Some(RopeTable::F32(f32_table.view()?)),
    };
    let q_weight = Tensor::<T, 1>::new(device, [head_dim], 0, 1.0)?;
    let k_weight = Tensor::<T, 1>::new(device, [head_dim], 0, 2.0)?;
    let weights = match call.op.norm {
        Some(_) if call.weights => Some(NormWeights {
            q: Some(q_weight.view()?),
            k: if k_heads > 0 {
                Some(k_weight.view()?)
            } else {
                None
            },
        }),
        _ => None,
    };
    let mut same = Pages::<T>::new(device, call)?;
    let mut e4m3 = Pages::<F8E4M3>::new(device, call)?;
    let mut e5m2 = Pages::<F8E5M2>::new(device, call)?;
    let mut faults = IndexFaults::new(&device.stream)?;
    let slots = slots(device, call)?;
    let cache = match call.cache {
        None => None,
        Some(cache) => Some(CacheWrite {
            v: v.view()?,
            pages: match cache.dtype {
                None => KvPages::Same {
                    k: same.k.view_mut()?,
                    v: same.v.view_mut()?,
                },
                Some(DType::F8E4M3) => KvPages::E4M3(e4m3.quantised(cache)?),
                Some(_) => KvPages::E5M2(e5m2.quantised(cache)?),
            },
            layout: cache.layout,
            slots: &slots,
        }),
    };
    let k = match (k_heads, call.cache) {
        (0, _) => None,
        (_, Some(Cache { only: true, .. })) => Some(Heads::ToCache(k.view()?)),
        _ if call.in_place => Some(Heads::InPlace(k.view_mut()?)),
        _ => Some(Heads::Into {
            x: k.view()?,
            out: k_out.view_mut()?,
        }),
    };
    let q = if call.in_place {
        Heads::InPlace(q.view_mut()?)
    } else {
        Heads::Into {
            x: q.view()?,
            out: q_out.view_mut()?,
        }
    };
    let args = RopeArgs {
        k,
        table,
        weights,
        cache,
        faults: Some(&mut faults),
        ..RopeArgs::new(q, None, positions)
    };
    Ok(device.kernels.rope(&device.stream, &call.op, args)?)
}

struct Pages<C> {
    k: Tensor<C, 4>,
    v: Tensor<C, 4>,
    scales: Tensor<f32, 1>,
}

impl<C: Element> Pages<C> {
    fn new(device: &Device, call: &Call) -> Result<Self> {
        let [tokens, _, heads, head_dim] = call.shape;
        let Cache {
            page_size, layout, ..
        } = call.cache.unwrap_or(CACHE);
        let pages = tokens.div_ceil(page_size) + 1;
        let shape = match layout {
            PageLayout::Nhd => [pages, page_size, heads, head_dim],
            PageLayout::Hnd => [pages, heads, page_size, head_dim],
        };
        let new = || Tensor::<C, 4>::new(device, shape, call.gap, 55.0);
        Ok(Self {
            k: new()?,
            v: new()?,
            scales: Tensor::new(device, [heads], 0, 1.0)?,
        })
    }

    fn quantised(&mut self, cache: Cache) -> Result<QuantisedPages<'_, C>> {
        let scale = |tensor: f32| -> Result<CacheScale<'_>> {
            Ok(if cache.per_head {
                CacheScale::PerHead(self.scales.view()?)
            } else {
                CacheScale::Tensor(tensor)
            })
        };
        let (k_scale, v_scale) = (scale(0.02)?, scale(0.7)?);
        Ok(QuantisedPages {
            k: self.k.view_mut()?,
            v: self.v.view_mut()?,
            k_scale,
            v_scale,
        })
    }
}

/// Slots from the last one on and, for the last token, the first; the second token has none. Checked ones may be outside.
fn slots(device: &Device, call: &Call) -> Result<Slots> {
    let tokens = call.shape[0];
    let Cache {
        page_size, checked, ..
    } = call.cache.unwrap_or(CACHE);
    let end = (tokens.div_ceil(page_size) + 1) * page_size;
    let slot = |token| {
        if token + 1 == tokens {
            0
        } else {
            end - 1 - token
        }
    };
    let all = (0..tokens).map(|token| (token != 1).then(|| slot(token)));
    if !checked {
        return Ok(Slots::new(&device.stream, &all.collect::<Vec<_>>())?);
    }
    let mut all: Vec<i64> = all
        .map(|slot| slot.map_or(-1, |slot| slot as i64))
        .collect();
    all[0] = end as i64;
    all[tokens - 1] = -2;
    let all = device.stream.clone_htod(&all)?;
    Ok(Slots::checked_on_device(all, tokens)?)
}
