//! Launches of the prefill kernels that have every option.

use std::ops::Range;

use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, Float, Mask, PageLayout, PageTable, Prefill,
    PrefillOptions, PrefillPagedArgs, PrefillVarlenArgs, TensorView, TensorViewMut,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Device, Result, Tensor, prefill_tiles};

/// A sink above every logit, one among them, and two that are no numbers.
const SINKS: [f32; 4] = [9.0, -1.5, f32::NEG_INFINITY, f32::NAN];

/// Two requests, packed or in pages, with every option by turns, of heads for each of the kernels that have them.
pub fn all<T: Float>(device: &Device) -> Result<()> {
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
    // Rows that end in each pass of the copies and of the stores, heads of every number of columns, keys that end in each half of a tile.
    for (i, rows) in (1..=14).chain([16, 33]).enumerate() {
        let wide = if [8, 33].contains(&rows) { 504 } else { 264 };
        let keys = if rows % 2 == 0 { 19 } else { 28 };
        let columns = 8 * (i + 1);
        for (head_dim, head_dim_v) in [
            (24, columns % 56 + 8),
            (72, columns),
            (136, columns),
            (24, wide),
        ] {
            let q = Tensor::<T, 3>::new(device, [rows, 3, head_dim], 8, 1.0)?;
            let k = Tensor::<T, 3>::new(device, [keys, 1, head_dim], 8, 1.0)?;
            let v = Tensor::<T, 3>::new(device, [keys, 1, head_dim_v], 8, 1.0)?;
            let lens: [&[usize]; 2] = [&[rows], &[keys]];
            let options = PrefillOptions::default();
            packed(device, &Prefill::default(), &q, &k, &v, lens, options)?;
        }
    }
    let causal = Prefill {
        mask: Mask::Causal,
        ..Prefill::default()
    };
    // Wide heads that leave steps, or squares of columns, of their warps unused.
    for dims in [[200, 328], [296, 264], [360, 136], [424, 384], [488, 72]] {
        prefill_tiles::one_head::<T>(device, &causal, dims, [21, 70])?;
    }
    // Rows of every lane, of heads that end in each part of a warp's columns; of wide ones, some leave squares of theirs unused.
    let of_teams = (1..=16).map(|end| [136, 8 * end]);
    let wide = (0..8).map(|end| 448 + 8 * end).chain([72, 136, 264]);
    for dims in of_teams.chain(wide.map(|head_dim_v| [264, head_dim_v])) {
        prefill_tiles::one_head::<T>(device, &causal, dims, [32, 9])?;
    }
    prefill_tiles::ends_of_heads::<T>(device)?;
    // A request without queries, also of heads in the same rows.
    for heads in [3, 1] {
        for (head_dim, head_dim_v) in [(40, 64), (72, 128), (248, 256), (576, 512)] {
            let q = Tensor::<T, 3>::new(device, [33, heads, head_dim], 0, 1.0)?;
            let k = Tensor::<T, 3>::new(device, [60, 1, head_dim], 0, 1.0)?;
            let v = Tensor::<T, 3>::new(device, [60, 1, head_dim_v], 0, 1.0)?;
            let slopes = Tensor::<f32, 2>::new(device, [2, heads], 0, 0.2)?;
            let bits = device.stream.clone_htod(&[0xff; 33 * 5])?;
            let options = PrefillOptions {
                alibi_slopes: Some(slopes.view()?),
                bit_mask: Some(TensorView::contiguous(bits.as_view(), [1, 33, 5])?),
                ..PrefillOptions::default()
            };
            packed(device, &causal, &q, &k, &v, [&[0, 33], &[20, 40]], options)?;
        }
    }
    // Tiles that all rows see, in pages.
    for head_dim in [64, 128, 256] {
        let q = Tensor::<T, 3>::new(device, [46, 4, head_dim], 8, 1.0)?;
        let op = Prefill::default();
        let lens: [&[usize]; 2] = [&[37, 9], &[259, 280]];
        two_in_pages(
            device,
            &op,
            &q,
            52,
            lens,
            [head_dim; 2],
            PrefillOptions::default(),
        )?;
        // More of them than are found at once.
        let q = Tensor::<T, 3>::new(device, [5, 4, head_dim], 8, 1.0)?;
        let lens: [&[usize]; 2] = [&[4, 1], &[1130, 700]];
        two_in_pages(
            device,
            &op,
            &q,
            190,
            lens,
            [head_dim; 2],
            PrefillOptions::default(),
        )?;
    }
    for head_dim in [64, 128, 256] {
        mask_edges::<T>(device, head_dim)?;
        unseen_keys::<T>(device, [head_dim; 2], 128, true)?;
        far_logits::<T>(device, head_dim, false, 1)?;
        far_logits::<T>(device, head_dim, true, 1)?;
        for keys in [288, 261] {
            growing_logits::<T>(device, head_dim, keys, 1)?;
        }
    }
    unseen_keys::<T>(device, [576, 512], 32, false)?;
    for (head_dim, rows) in [(64, 128), (128, 128), (256, 128), (512, 32)] {
        sparse_blocks::<T>(device, head_dim, rows)?;
    }
    // Infinite logits and NaN beside sinks.
    for (head_dim, head_dim_v) in [(24, 40), (24, 120), (24, 248), (24, 264)] {
        with_sinks::<T>(
            device,
            &Prefill::default(),
            [head_dim, head_dim_v],
            [&[16], &[9]],
            f64::INFINITY,
        )?;
        nan_beside_sinks::<T>(device, [head_dim, head_dim_v])?;
    }
    Ok(())
}

/// Edges of a mask in every column of a tile, for rows of each kind, in the kernels that have every option.
fn mask_edges<T: Float>(device: &Device, head_dim: usize) -> Result<()> {
    let window = |left, right, sink_tokens| Prefill {
        mask: Mask::Window {
            left: Some(left),
            right: Some(right),
        },
        sink_tokens,
        ..Prefill::default()
    };
    let run = |op: Prefill, queries, keys, bits: Option<TensorView<'_, u8, 3>>| {
        let q = Tensor::<T, 3>::new(device, [queries, 1, head_dim], 0, 1.0)?;
        let k = Tensor::<T, 3>::new(device, [keys, 1, head_dim], 0, 1.0)?;
        let v = Tensor::<T, 3>::new(device, [keys, 1, head_dim], 0, 1.0)?;
        let slopes = Tensor::<f32, 2>::new(device, [1, 1], 0, 0.1)?;
        let options = PrefillOptions {
            alibi_slopes: Some(slopes.view()?),
            bit_mask: bits,
            ..PrefillOptions::default()
        };
        packed(device, &op, &q, &k, &v, [&[queries], &[keys]], options)
    };
    let bits = device.stream.clone_htod(&[0xff; 128 * 16])?;
    for shift in [0, 8] {
        let op = window(20 + shift, 12 - shift, 0);
        run(op, 128, 128, None)?;
        let bits = TensorView::contiguous(bits.as_view(), [1, 128, 16])?;
        run(op, 128, 128, Some(bits))?;
    }
    // A lane has two columns of every eight: the last sink token is in each in turn.
    for column in 0..16 {
        run(window(3, 0, column / 2 * 8 + column % 2 + 2), 3, 80, None)?;
    }
    Ok(())
}

/// Packed requests with sinks, under masks of which the kernels without options have no other case.
pub fn narrow<T: Float>(device: &Device) -> Result<()> {
    let chunked = |size: u32, causal| Prefill {
        mask: Mask::Chunked {
            size: size.try_into().expect("not 0"),
            causal,
        },
        ..Prefill::default()
    };
    for dims in [[40, 40], [72, 72], [200, 200]] {
        // Queries before all keys, in whole chunks and in part of one.
        with_sinks::<T>(
            device,
            &chunked(11, false),
            dims,
            [&[37, 9], &[21, 60]],
            1.0,
        )?;
        // Requests of one block and of a little more; chunks that end within a tile, and that are longer than one.
        with_sinks::<T>(device, &chunked(8, true), dims, [&[64, 65], &[64, 40]], 1.0)?;
        with_sinks::<T>(device, &chunked(100, false), dims, [&[20], &[200]], 1.0)?;
        // Heads of a group in the same rows, in more than one block; buffers of tiles that have gone round before the first.
        let window = |left| Prefill {
            mask: Mask::Window {
                left,
                right: Some(0),
            },
            ..Prefill::default()
        };
        with_sinks::<T>(device, &window(None), dims, [&[100], &[100]], 1.0)?;
        with_sinks::<T>(device, &window(Some(60)), dims, [&[20], &[330]], 1.0)?;
        let full = Prefill::default();
        // Logits so far apart that weights of later tiles leave their range.
        with_sinks::<T>(device, &full, dims, [&[16], &[330]], 40.0)?;
        with_sinks::<T>(device, &full, dims, [&[16], &[9]], f64::INFINITY)?;
        nan_beside_sinks::<T>(device, dims)?;
    }
    for head_dim in [64, 128, 256] {
        unseen_keys::<T>(device, [head_dim; 2], 128, false)?;
        far_logits::<T>(device, head_dim, false, 0)?;
        far_logits::<T>(device, head_dim, true, 0)?;
        // The last tile is whole, and an odd or an even one; it is not.
        for keys in [256, 288, 261] {
            growing_logits::<T>(device, head_dim, keys, 0)?;
        }
    }
    // Logits of every other row leave the range in the last tile alone, which is plain and an even one.
    let every_other = |row| [0.0, 50.0][row % 2];
    let last = |key| (key / 256) as f64 * 10.0;
    steered_logits::<T>(device, [256, 288], 0, every_other, last)
}

/// Blocks whose rows see different keys. Keys that no row of a block sees are not read: there is NaN, which leaves
/// the block's own rows as they are. `rows` are those of a block.
fn unseen_keys<T: Float>(
    device: &Device,
    dims: [usize; 2],
    rows: usize,
    with_slopes: bool,
) -> Result<()> {
    let chunked = |size: usize| Mask::Chunked {
        size: (size as u32).try_into().expect("not 0"),
        causal: false,
    };
    let run = |mask, group, queries, keys, spoiled: Range<usize>| {
        let op = Prefill {
            mask,
            ..Prefill::default()
        };
        let q = Tensor::<T, 3>::new(device, [queries, group, dims[0]], 0, 1.0)?;
        let mut k = Tensor::<T, 3>::new(device, [keys, 1, dims[0]], 0, 1.0)?;
        let mut v = Tensor::<T, 3>::new(device, [keys, 1, dims[1]], 0, 1.0)?;
        for tensor in [&mut k, &mut v] {
            tensor.set(device, |[key, ..]| {
                spoiled.contains(&key).then_some(f64::NAN)
            })?;
        }
        let slopes = Tensor::<f32, 2>::new(device, [1, group], 0, 0.1)?;
        let options = PrefillOptions {
            alibi_slopes: with_slopes.then(|| slopes.view()).transpose()?,
            ..PrefillOptions::default()
        };
        packed(device, &op, &q, &k, &v, [&[queries], &[keys]], options)
    };
    run(Mask::Causal, 1, 2 * rows, 2 * rows, rows..2 * rows)?;
    // Two heads of a group in the rows of a block.
    run(Mask::Causal, 2, rows, rows, rows / 2..rows)?;
    let whole = chunked(rows);
    run(whole, 1, 2 * rows, 2 * rows, rows..2 * rows)?;
    run(whole, 1, 2 * rows, 2 * rows, 0..rows)?;
    // The first block stands before all keys.
    run(whole, 1, 2 * rows, rows, 0..rows)?;
    // A block in two chunks, of which the first sees several tiles; one that is before all keys in part.
    let longer = chunked(rows / 2 * 3);
    run(longer, 1, 2 * rows, 2 * rows, 0..0)?;
    run(longer, 1, 2 * rows, rows / 2 * 3, 0..0)
}

/// Lists of few blocks of keys for each block of `rows` queries: whole tiles that no row sees, also at the start and at the end, or that
/// every row sees; more blocks than a word of the list has bits, and nothing behind the last list.
fn sparse_blocks<T: Float>(device: &Device, head_dim: usize, rows: usize) -> Result<()> {
    let lists: [&[usize]; 6] = [
        &[0, 39],
        &[35],
        &[],
        &[2, 3, 4, 5, 6, 7, 36, 37, 38, 39],
        &[8, 9, 10, 11, 12, 33],
        &[0],
    ];
    let size = |n: usize| (n as u32).try_into().expect("not 0");
    let shape = BlockShape {
        block_q: size(rows),
        block_k: size(16),
        query_blocks: 3,
        key_blocks: 40,
    };
    let (mut offsets, mut listed) = (vec![0], Vec::new());
    for list in lists.into_iter().chain(lists) {
        listed.extend_from_slice(list);
        offsets.push(listed.len());
    }
    let blocks = BlockMask::new(&device.stream, shape, 2, 2, &offsets, &listed)?;
    let lens: [&[usize]; 2] = [&[rows + 7, 2 * rows + 5], &[640, 627]];
    let q = Tensor::<T, 3>::new(device, [3 * rows + 12, 2, head_dim], 0, 1.0)?;
    let k = Tensor::<T, 3>::new(device, [1267, 2, head_dim], 0, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [1267, 2, head_dim], 0, 1.0)?;
    let window = Mask::Window {
        left: Some(500),
        right: None,
    };
    for (mask, sink_tokens) in [(Mask::Full, 0), (window, 20)] {
        let op = Prefill {
            mask,
            sink_tokens,
            ..Prefill::default()
        };
        let options = PrefillOptions {
            block_mask: Some(&blocks),
            ..PrefillOptions::default()
        };
        packed(device, &op, &q, &k, &v, lens, options)?;
    }
    Ok(())
}

/// Logits near each other and far from 0, for rows of each kind: references that rest in shared memory, and sums of rounded
/// weights, whose rounding shows in few elements of o. With `alternates` every other row has logits of -inf alone: no
/// reference at all.
fn far_logits<T: Float>(
    device: &Device,
    head_dim: usize,
    alternates: bool,
    sink_tokens: u32,
) -> Result<()> {
    let steer = |row: usize| match alternates && row % 2 == 1 {
        true => f64::NEG_INFINITY,
        false => 400.0,
    };
    steered_logits::<T>(device, [head_dim, 192], sink_tokens, steer, |_| 400.0)
}

/// Logits that leave the range of those before in every tile of 32 keys.
fn growing_logits<T: Float>(
    device: &Device,
    head_dim: usize,
    keys: usize,
    sink_tokens: u32,
) -> Result<()> {
    steered_logits::<T>(
        device,
        [head_dim, keys],
        sink_tokens,
        |_| 50.0,
        |key| (key / 32) as f64 * 10.0,
    )
}

/// 128 queries, with logits that the first elements of the query and of the key push apart. Sink tokens, which change nothing as all
/// keys are in sight, take the kernels that have every option.
fn steered_logits<T: Float>(
    device: &Device,
    [head_dim, keys]: [usize; 2],
    sink_tokens: u32,
    first_of_query: impl Fn(usize) -> f64,
    first_of_key: impl Fn(usize) -> f64,
) -> Result<()> {
    let mut q = Tensor::<T, 3>::new(device, [128, 1, head_dim], 0, 1.0)?;
    let mut k = Tensor::<T, 3>::new(device, [keys, 1, head_dim], 0, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [keys, 1, head_dim], 0, 2.0)?;
    q.set(device, |[row, _, column]| {
        (column == 0).then(|| first_of_query(row))
    })?;
    k.set(device, |[key, _, column]| {
        (column == 0).then(|| first_of_key(key))
    })?;
    let op = Prefill {
        sink_tokens,
        ..Prefill::default()
    };
    let options = PrefillOptions::default();
    packed(device, &op, &q, &k, &v, [&[128], &[keys]], options)
}

/// Two heads to a group, each with another sink; `spread` is that of q.
fn with_sinks<T: Float>(
    device: &Device,
    op: &Prefill,
    [head_dim, head_dim_v]: [usize; 2],
    lens: [&[usize]; 2],
    spread: f64,
) -> Result<()> {
    let [queries, keys] = lens.map(|lens| lens.iter().sum());
    let q = Tensor::<T, 3>::new(device, [queries, 4, head_dim], 8, spread)?;
    let k = Tensor::<T, 3>::new(device, [keys, 2, head_dim], 8, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [keys, 2, head_dim_v], 8, 2.0)?;
    beside_sinks(device, op, [&q, &k, &v], lens)
}

/// Logits of which one is NaN and the others are ordinary, for rows of each kind.
fn nan_beside_sinks<T: Float>(device: &Device, dims: [usize; 2]) -> Result<()> {
    let q = Tensor::<T, 3>::new(device, [16, 4, dims[0]], 0, 1.0)?;
    let mut k = Tensor::<T, 3>::new(device, [9, 2, dims[0]], 0, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [9, 2, dims[1]], 0, 1.0)?;
    k.set(device, |[key, ..]| (key == 7).then_some(f64::NAN))?;
    beside_sinks(device, &Prefill::default(), [&q, &k, &v], [&[16], &[9]])
}

fn beside_sinks<T: Float>(
    device: &Device,
    op: &Prefill,
    [q, k, v]: [&Tensor<T, 3>; 3],
    lens: [&[usize]; 2],
) -> Result<()> {
    let sinks = device.stream.clone_htod(&SINKS)?;
    let options = PrefillOptions {
        sinks: Some(TensorView::contiguous(sinks.as_view(), [4])?),
        ..PrefillOptions::default()
    };
    packed(device, op, q, k, v, lens, options)
}

fn options_case<T: Float>(
    device: &Device,
    op: &Prefill,
    turn: usize,
    head_dim: usize,
    head_dim_v: usize,
) -> Result<()> {
    const Q_LENS: [usize; 2] = [9, 37];
    const K_LENS: [usize; 2] = [100, 21];
    let stream = &device.stream;
    let size = |n: u32| n.try_into().expect("not 0");
    let q = Tensor::<T, 3>::new(device, [46, 4, head_dim], 8, 1.0)?;
    let k = Tensor::<T, 3>::new(device, [121, 2, head_dim], 8, 1.0)?;
    let v = Tensor::<T, 3>::new(device, [121, 2, head_dim_v], 8, 2.0)?;
    let sinks = stream.clone_htod(&SINKS)?;
    let slopes = Tensor::<f32, 2>::new(device, [2, 4], 1, 0.2)?;
    let biases = (
        Tensor::<f16, 4>::new(device, [1, 4, 46, 104], 3, 1.0)?,
        Tensor::<bf16, 4>::new(device, [1, 4, 46, 104], 0, 1.0)?,
        Tensor::<f32, 4>::new(device, [1, 4, 46, 104], 1, 1.0)?,
    );
    let prefixes = stream.clone_htod(&[70, 5])?;
    let mut random = StdRng::seed_from_u64(turn as u64);
    let bits: Vec<u8> = (0..46 * 13).map(|_| random.random()).collect();
    let bits = stream.clone_htod(&bits)?;
    // As many as there must be, and nothing behind the last word.
    let shape = BlockShape {
        block_q: size(5),
        block_k: size(5),
        query_blocks: 8,
        key_blocks: 21,
    };
    let (mut offsets, mut listed) = (vec![0], Vec::new());
    let rows = 2 * 2 * shape.query_blocks;
    for row in 0..rows {
        // The last rows list nothing behind their first tile.
        let key_blocks = if row + 2 < rows { shape.key_blocks } else { 2 };
        listed.extend((0..key_blocks).filter(|_| random.random_bool(0.4)));
        offsets.push(listed.len());
    }
    let blocks = BlockMask::new(stream, shape, 2, 2, &offsets, &listed)?;
    let options = || -> Result<PrefillOptions<'_>> {
        Ok(PrefillOptions {
            sinks: match turn {
                1 => None,
                _ => Some(TensorView::contiguous(sinks.as_view(), [4])?),
            },
            alibi_slopes: turn.is_multiple_of(2).then(|| slopes.view()).transpose()?,
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
                2 | 3 => Some(TensorView::contiguous(bits.as_view(), [1, 46, 13])?),
                _ => None,
            },
            block_mask: (turn > 2).then_some(&blocks),
        })
    };
    packed(device, op, &q, &k, &v, [&Q_LENS, &K_LENS], options()?)?;
    two_in_pages(
        device,
        op,
        &q,
        17,
        [&Q_LENS, &K_LENS],
        [head_dim, head_dim_v],
        options()?,
    )
}

pub fn packed<T: Float>(
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

/// The pages of k and v, and what the requests' keys are in.
pub struct Pages<'a> {
    /// Heads of k and v in each.
    pub heads: usize,
    /// Keys of a page.
    pub size: usize,
    /// Pages that exist.
    pub count: usize,
    /// For each request.
    pub table: &'a [i32],
}

/// So many pages of 6 keys for each of two requests, of which one does not exist.
fn two_in_pages<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    pages_each: usize,
    lens: [&[usize]; 2],
    dims: [usize; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let count = 2 * pages_each - 3;
    let table: Vec<i32> = (0..2 * pages_each)
        .map(|i| (i * 7 % (count + 1)) as i32)
        .collect();
    let pages = Pages {
        heads: 2,
        size: 6,
        count,
        table: &table,
    };
    paged(device, op, q, pages, lens, dims, options)
}

/// Requests whose keys are in pages.
pub fn paged<T: Float>(
    device: &Device,
    op: &Prefill,
    q: &Tensor<T, 3>,
    pages: Pages<'_>,
    [q_lens, k_lens]: [&[usize]; 2],
    [head_dim, head_dim_v]: [usize; 2],
    options: PrefillOptions<'_>,
) -> Result<()> {
    let stream = &device.stream;
    let [tokens, heads, _] = q.layout.shape();
    let Pages {
        heads: kv_heads,
        size,
        count,
        table,
    } = pages;
    let k = Tensor::<T, 4>::new(device, [count, kv_heads, size, head_dim], 0, 1.0)?;
    let v = Tensor::<T, 4>::new(device, [count, kv_heads, size, head_dim_v], 8, 1.0)?;
    let mut o = Tensor::<T, 3>::new(device, [tokens, heads, head_dim_v], 0, 55.0)?;
    let lens: Vec<i32> = k_lens.iter().map(|&len| len as i32).collect();
    let pages = PageTable::from_device(
        size,
        table.len() / k_lens.len(),
        stream.clone_htod(table)?,
        stream.clone_htod(&lens)?,
    )?;
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
