//! Launches of the prefill kernels that have every option, of tiles that do not follow each other, and of more than are found
//! at once. What no row sees, and where it is not beside what one sees, is NaN: it must not be visited.

use std::num::NonZeroU32;
use std::ops::Range;

use ferroflash::{BlockMask, BlockShape, Float, Mask, Prefill, PrefillOptions, TensorView};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::prefill_options::{Pages, packed, paged};
use super::{Device, Result, Shape, Tensor, prefill};

/// Head dimensions, which take these kernels for being unequal, and the keys of a tile.
const HEADS: [([usize; 2], usize); 4] = [
    ([40, 48], 64),
    ([72, 120], 32),
    ([136, 248], 32),
    ([264, 40], 16),
];

/// Keys that a warp finds of a tile at once, or more.
const PASS: usize = 16;

pub fn all<T: Float>(device: &Device) -> Result<()> {
    let full = Prefill::default();
    let scaled = |softmax_scale, softcap| Prefill {
        softmax_scale: Some(softmax_scale),
        softcap,
        ..full
    };
    for (dims, tile) in HEADS {
        // Every element of a tile, of rows of each kind.
        for op in [scaled(-0.2, None), scaled(0.4, Some(3.0))] {
            prefill::<T>(device, &op, Shape(1, 128, 64, 1, 1), dims, 8, true, 1.0)?;
        }
        // A batch, not packed.
        let batch = Shape(2, 9, 3 * tile + 3, 2, 2);
        prefill::<T>(device, &full, batch, dims, 8, true, 1.0)?;
        edges_of_plain_tiles::<T>(device, dims, tile)?;
        sinks_and_window::<T>(device, dims, tile)?;
        long_lists::<T>(device, dims, tile)?;
        lists_of_whole_tiles::<T>(device, dims, tile)?;
        bits::<T>(device, dims)?;
        missing_pages::<T>(device, dims, tile)?;
    }
    Ok(())
}

/// Heads that end in each line of a row, of which the last key is in a tile of each kind; nothing is behind it.
pub fn ends_of_heads<T: Float>(device: &Device) -> Result<()> {
    let ends = [
        [40, 48],
        [24, 72],
        [72, 24],
        [24, 136],
        [72, 136],
        [136, 72],
        [248, 24],
        [192, 24],
        [24, 192],
    ];
    for dims in ends {
        for keys in [32, 64, 128, 256] {
            one_head::<T>(device, &Prefill::default(), dims, [9, keys])?;
        }
    }
    Ok(())
}

/// A request of one head and so many queries and keys.
pub fn one_head<T: Float>(
    device: &Device,
    op: &Prefill,
    dims: [usize; 2],
    [queries, keys]: [usize; 2],
) -> Result<()> {
    let lens: [&[usize]; 2] = [&[queries], &[keys]];
    let options = PrefillOptions::default();
    run::<T>(device, op, dims, 1, lens, |_| false, options)
}

fn size(n: usize) -> NonZeroU32 {
    u32::try_from(n)
        .ok()
        .and_then(NonZeroU32::new)
        .expect("not 0")
}

fn window(left: usize, right: u32) -> Mask {
    Mask::Window {
        left: Some(left as u32),
        right: Some(right),
    }
}

/// Packed requests of one head of k and v to `group` heads, of whose keys those that are `unseen` are NaN.
fn run<T: Float>(
    device: &Device,
    op: &Prefill,
    dims: [usize; 2],
    group: usize,
    lens: [&[usize]; 2],
    unseen: impl Fn(usize) -> bool,
    options: PrefillOptions<'_>,
) -> Result<()> {
    let [queries, keys] = lens.map(|lens| lens.iter().sum());
    let q = Tensor::<T, 3>::new(device, [queries, group, dims[0]], 8, 1.0)?;
    let mut k = Tensor::<T, 3>::new(device, [keys, 1, dims[0]], 8, 1.0)?;
    let mut v = Tensor::<T, 3>::new(device, [keys, 1, dims[1]], 8, 1.0)?;
    for tensor in [&mut k, &mut v] {
        tensor.set(device, |[key, ..]| unseen(key).then_some(f64::NAN))?;
    }
    packed(device, op, &q, &k, &v, lens, options)
}

/// Tiles of which the first or the last row of a block does not see every key.
fn edges_of_plain_tiles<T: Float>(device: &Device, dims: [usize; 2], tile: usize) -> Result<()> {
    let chunked = |keys| Mask::Chunked {
        size: size(keys),
        causal: false,
    };
    let cases = [
        (window(tile * 7 / 3, 0), 0, 1, 128, 400),
        (window(90, 0), 3, 2, 128, 200),
        // A chunk that begins within a tile behind the sinks; two chunks; one before which the first query stands.
        (chunked(100), 3, 1, 60, 190),
        (chunked(100), 0, 1, 120, 200),
        (chunked(129), 0, 1, 130, 129),
    ];
    for (mask, sink_tokens, group, queries, keys) in cases {
        let op = Prefill {
            mask,
            sink_tokens,
            ..Prefill::default()
        };
        let lens: [&[usize]; 2] = [&[queries], &[keys]];
        run::<T>(
            device,
            &op,
            dims,
            group,
            lens,
            |_| false,
            PrefillOptions::default(),
        )?;
    }
    Ok(())
}

/// Sinks and a window behind them that end, and begin, in each part of a tile that a warp finds at once: of the first tiles and of later ones.
fn sinks_and_window<T: Float>(device: &Device, dims: [usize; 2], tile: usize) -> Result<()> {
    for first in (0..tile).step_by(PASS) {
        for sink_tiles in [0, 8] {
            let sinks_end = sink_tiles * tile + first + 5;
            let key_first = (sink_tiles + 3) * tile + first + 9;
            let keys = (sink_tiles + 4) * tile + first + 12;
            let op = Prefill {
                mask: window(keys - 3 - key_first, 0),
                sink_tokens: sinks_end as u32,
                ..Prefill::default()
            };
            let unseen = |key| (sinks_end..key_first).contains(&key);
            let options = PrefillOptions::default();
            run::<T>(device, &op, dims, 1, [&[3], &[keys]], unseen, options)?;
        }
    }
    Ok(())
}

/// Lists of blocks of a quarter of a tile, for one row and for two: of more tiles than are found at once, and of more words than one, of which some
/// are empty.
fn long_lists<T: Float>(device: &Device, dims: [usize; 2], tile: usize) -> Result<()> {
    let block = tile / 4;
    let lists: [&[usize]; 4] = [
        // Quarters of the tiles 0, 3, 20 and 26.
        &[0, 12, 80, 81, 107],
        &[],
        // Of 1, 2, 4, 5, 7, 12, 25 and 33.
        &[5, 9, 10, 16, 17, 18, 19, 23, 28, 50, 102, 135],
        // Of 2, 7, 8, 11, 12, 15, 26 and 30.
        &[8, 31, 32, 44, 47, 48, 60, 107, 120],
    ];
    let lens = [26 * tile + tile - 3, 40 * tile];
    let shape = BlockShape {
        block_q: size(3),
        block_k: size(block),
        query_blocks: 2,
        key_blocks: 160,
    };
    let blocks = block_mask(device, shape, 2, &lists)?;
    let listed = |key: usize| {
        let (key, lists) = match key < lens[0] {
            true => (key, &lists[..2]),
            false => (key - lens[0], &lists[2..]),
        };
        let mut blocks = lists.iter().flat_map(|list| list.iter());
        blocks.any(|listed| listed / 4 == key / tile)
    };
    let masks = [
        (Mask::Full, 0),
        // Sinks and a window that begin with the first tiles that are found, and with later ones.
        (window(30 * tile, 0), 2 * tile + 7),
        (window(15 * tile, 0), 13 * tile + 5),
    ];
    for (mask, sink_tokens) in masks {
        let op = Prefill {
            mask,
            sink_tokens: sink_tokens as u32,
            ..Prefill::default()
        };
        let options = PrefillOptions {
            block_mask: Some(&blocks),
            ..PrefillOptions::default()
        };
        let unseen = |key| !listed(key);
        run::<T>(device, &op, dims, 1, [&[2, 5], &lens], unseen, options)?;
    }
    Ok(())
}

/// Lists of blocks as large as a tile and half as large again, some of them for all rows; of blocks that are less than a word, and end within a tile.
fn lists_of_whole_tiles<T: Float>(device: &Device, dims: [usize; 2], tile: usize) -> Result<()> {
    let cases: [(usize, usize, [&[usize]; 3]); 3] = [
        (
            tile,
            40,
            [&[0, 1, 5, 33, 34], &[0, 1, 6, 33, 34], &[0, 1, 5, 33, 35]],
        ),
        (
            tile / 2 * 3,
            8,
            [&[0, 2, 3, 4, 6], &[0, 2, 4, 6, 7], &[0, 2, 5, 6]],
        ),
        (5, 32, [&[0, 1, 3, 30, 31], &[0, 31], &[0, 31]]),
    ];
    for (block, key_blocks, lists) in cases {
        let shape = BlockShape {
            block_q: size(16),
            block_k: size(block),
            query_blocks: 3,
            key_blocks,
        };
        let blocks = block_mask(device, shape, 1, &lists)?;
        let listed_tile = |key: usize| {
            let mut blocks = lists.iter().flat_map(|list| list.iter());
            blocks.any(|listed| {
                let tiles = listed * block / tile..=((listed + 1) * block - 1) / tile;
                tiles.contains(&(key / tile))
            })
        };
        let options = PrefillOptions {
            block_mask: Some(&blocks),
            ..PrefillOptions::default()
        };
        let lens: [&[usize]; 2] = [&[40], &[block * key_blocks]];
        let op = Prefill::default();
        run::<T>(device, &op, dims, 1, lens, |key| !listed_tile(key), options)?;
    }
    Ok(())
}

/// Lists for each request and block of queries.
fn block_mask(
    device: &Device,
    shape: BlockShape,
    requests: usize,
    lists: &[&[usize]],
) -> Result<BlockMask> {
    let mut offsets = vec![0];
    offsets.extend(lists.iter().scan(0, |end, list| {
        *end += list.len();
        Some(*end)
    }));
    Ok(BlockMask::new(
        &device.stream,
        shape,
        requests,
        1,
        &offsets,
        &lists.concat(),
    )?)
}

/// Bits of tiles that are seen in full, aligned and not; and no more bytes than there are keys for.
fn bits<T: Float>(device: &Device, dims: [usize; 2]) -> Result<()> {
    let mut random = StdRng::seed_from_u64(0);
    for (queries, keys, bytes) in [(9, 200, 32), (9, 200, 25), (3, 5, 1)] {
        let bits: Vec<u8> = (0..queries * bytes).map(|_| random.random()).collect();
        let bits = device.stream.clone_htod(&bits)?;
        let options = PrefillOptions {
            bit_mask: Some(TensorView::contiguous(bits.as_view(), [1, queries, bytes])?),
            ..PrefillOptions::default()
        };
        let lens: [&[usize]; 2] = [&[queries], &[keys]];
        run::<T>(
            device,
            &Prefill::default(),
            dims,
            1,
            lens,
            |_| false,
            options,
        )?;
    }
    Ok(())
}

/// Pages that do not exist: one alone in each part of a tile that a warp finds at once, of the first tiles and of later ones; and all that
/// are between sinks and a window, of which nobody is told.
fn missing_pages<T: Float>(device: &Device, dims: [usize; 2], tile: usize) -> Result<()> {
    let run = |op: Prefill, size: usize, count: usize, keys: usize, missing: Range<usize>| {
        let q = Tensor::<T, 3>::new(device, [1, 1, dims[0]], 8, 1.0)?;
        let page = |at| match missing.contains(&at) {
            true => count as i32,
            false => at as i32,
        };
        let pages = Pages {
            heads: 1,
            size,
            count,
            table: &(0..count).map(page).collect::<Vec<_>>(),
        };
        let options = PrefillOptions::default();
        paged(device, &op, &q, pages, [&[1], &[keys]], dims, options)
    };
    let pages = tile / PASS;
    let later = 8 * pages;
    let first = (0..=pages).map(|page| (2 * pages, page));
    let later = (later..later + pages).map(|page| (later + pages, page));
    for (count, page) in first.chain(later) {
        run(
            Prefill::default(),
            PASS,
            count,
            count * PASS - 3,
            page..page + 1,
        )?;
    }
    for sink_tokens in [8, 24, 40] {
        let op = Prefill {
            mask: window(15, 0),
            sink_tokens,
            ..Prefill::default()
        };
        run(op, 8, 8, 64, sink_tokens as usize / 8..6)?;
    }
    Ok(())
}
