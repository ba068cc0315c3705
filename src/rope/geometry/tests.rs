use super::super::MAX_PAIRS;
use super::super::bind::{NO_HEADS, NO_PAGES};
use super::*;
use crate::launch::params::FFLASH_PAGES_E4M3;

fn heads(count: i32, head_dim: i32) -> fflash_rope_heads {
    let strides = fflash_strides3 {
        tokens: i64::from(count) * i64::from(head_dim),
        heads: head_dim.into(),
    };
    fflash_rope_heads {
        x: std::ptr::without_provenance(256),
        out: std::ptr::without_provenance_mut(256),
        x_strides: strides,
        out_strides: strides,
        heads: count,
        ..NO_HEADS
    }
}

/// In place, rotating all of the head.
fn block(tokens: i64, [q, k]: [i32; 2], head_dim: i32) -> fflash_rope_params {
    fflash_rope_params {
        heads: [heads(q, head_dim), heads(k, head_dim), NO_HEADS],
        pages: [NO_PAGES; 2],
        slots: std::ptr::null(),
        positions: std::ptr::null(),
        table: std::ptr::null(),
        faults: std::ptr::null_mut(),
        tokens,
        first_position: 0,
        position_limit: 0,
        num_slots: 0,
        table_position_stride: 0,
        table_part_stride: 0,
        page_size: 16,
        sequences: 0,
        axes: 1,
        position_type: 0,
        table_type: 0,
        cache_type: 0,
        check_positions: 0,
        check_slots: 0,
        head_dim,
        rotary_offset: 0,
        rotary_pairs: head_dim / 2,
        interleaved: 0,
        columns: 0,
        lots: 0,
        angle_region: 0,
        normalise: 0,
        cos_factor: 1.0,
        sin_factor: 1.0,
        eps: 0.0,
        weight_offset: 0.0,
        inverse_head_dim: 0.0,
        cache_joined: 0,
        axis_of_pair: [0; MAX_PAIRS / 16],
        turns: [0; MAX_PAIRS],
    }
}

fn cached(mut block: fflash_rope_params) -> fflash_rope_params {
    block.slots = std::ptr::without_provenance(64);
    block.heads[2] = block.heads[1];
    block.heads[2].out = std::ptr::null_mut();
    for pages in &mut block.pages {
        pages.pages = std::ptr::without_provenance_mut(512);
        pages.head_stride = block.head_dim.into();
    }
    block
}

fn normed(mut block: fflash_rope_params) -> fflash_rope_params {
    block.normalise = 1;
    block
}

/// Kernel, grid, block, and threads of q, k and v.
type Launch = (RopeKind, [u32; 2], [u32; 3], [i32; 3]);

fn launch(mut block: fflash_rope_params, bytes: usize) -> Launch {
    let (kind, geometry) = geometry(&mut block, bytes).expect("supported");
    let grid = [geometry.grid[0], geometry.grid[1]];
    let threads = block.heads.map(|heads| heads.threads);
    (kind, grid, geometry.block, threads)
}

#[test]
fn usual_sizes() {
    use RopeKind::{Narrow, Wide};
    let of = |tokens, heads, head_dim, bytes| launch(block(tokens, heads, head_dim), bytes);
    // 32 + 8 heads of 128: 10 threads for each of 8 columns; with many tokens half of that, in whole warps.
    let ten = [8, 2, 0];
    assert_eq!(of(1, [32, 8], 128, 2), (Wide, [1, 1], [8, 10, 1], ten));
    assert_eq!(
        of(4096, [32, 8], 128, 2),
        (Wide, [1024, 1], [8, 5, 4], [4, 1, 0])
    );
    // 4 + 1 heads of 256 in f32.
    assert_eq!(
        of(8192, [4, 1], 256, 4),
        (Wide, [2048, 1], [32, 2, 4], [1, 1, 0])
    );
    // More heads than a block has room for are visited in turn.
    assert_eq!(
        of(1, [128, 128], 128, 2),
        (Wide, [1, 1], [8, 32, 1], [16, 16, 0])
    );
    // No room for threads of both tensors.
    assert_eq!(
        of(7, [4, 1], 510, 2),
        (Narrow, [7, 2], [255, 1, 1], [1, 1, 0])
    );
    assert_eq!(
        of(7, [4, 0], 510, 2),
        (Narrow, [7, 1], [255, 1, 1], [1, 0, 0])
    );
}

#[test]
fn fused_sizes() {
    use RopeKind::Wide;
    let of = |tokens| block(tokens, [32, 8], 128);
    assert_eq!(
        launch(cached(of(1)), 2),
        (Wide, [1, 1], [8, 12, 1], [8, 2, 2])
    );
    // Two heads at a time with the norm, four where tokens share a block.
    assert_eq!(
        launch(normed(cached(of(1))), 2),
        (Wide, [1, 1], [8, 24, 1], [16, 4, 4])
    );
    assert_eq!(
        launch(normed(cached(of(4096))), 2),
        (Wide, [2048, 1], [8, 12, 2], [8, 2, 2])
    );
    // Of heads of 96 six columns, which the norm rounds up.
    let (_, _, threads, _) = launch(normed(block(1, [4, 4], 96)), 2);
    assert_eq!(threads, [8, 4, 1]);
    // A part of a head in place: two columns. Elsewhere the six of the rest too.
    let mut part = block(1, [4, 0], 128);
    part.rotary_pairs = 16;
    assert_eq!(launch(part, 2).2, [2, 1, 1]);
    part.heads[0].out = std::ptr::without_provenance_mut(4096);
    assert_eq!(launch(part, 2).2, [8, 1, 1]);
}

#[test]
fn everything_must_be_aligned_for_wide_accesses() {
    let kind = |change: &dyn Fn(&mut fflash_rope_params)| {
        let mut block = cached(block(3, [2, 1], 64));
        change(&mut block);
        launch(block, 2).0
    };
    assert_eq!(kind(&|_| ()), RopeKind::Wide);
    let changes: [&dyn Fn(&mut fflash_rope_params); 10] = [
        &|block| block.rotary_pairs = 12,
        &|block| (block.rotary_pairs, block.rotary_offset) = (16, 4),
        &|block| block.head_dim = 68,
        &|block| block.heads[0].x_strides.heads += 4,
        &|block| block.heads[1].x_strides.tokens += 1,
        &|block| block.heads[1].out_strides.tokens += 1,
        &|block| block.heads[1].x = std::ptr::without_provenance(264),
        &|block| block.heads[0].weight = std::ptr::without_provenance(258),
        &|block| block.pages[1].page_stride = 4,
        &|block| block.pages[0].pages = std::ptr::without_provenance_mut(264),
    ];
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(kind(change), RopeKind::Narrow, "change {index}");
    }
    // Eight elements of FP8 are eight bytes.
    let quantised = |address| {
        kind(&|block: &mut fflash_rope_params| {
            block.cache_type = FFLASH_PAGES_E4M3 as i32;
            block.pages[0].pages = std::ptr::without_provenance_mut(address);
        })
    };
    assert_eq!(quantised(264), RopeKind::Wide);
    assert_eq!(quantised(260), RopeKind::Narrow);
}

#[test]
fn columns_of_whole_16_bytes_of_fp8_are_joined() {
    let joined = |bytes: usize, head_dim: i32, change: &dyn Fn(&mut fflash_rope_params)| {
        let mut block = cached(block(3, [2, 1], head_dim));
        block.cache_type = FFLASH_PAGES_E4M3 as i32;
        change(&mut block);
        let (kind, _) = geometry(&mut block, bytes).unwrap();
        assert_eq!(kind, RopeKind::Wide);
        block.cache_joined == 1
    };
    let as_it_is: &dyn Fn(&mut fflash_rope_params) = &|_| ();
    assert!(joined(2, 64, as_it_is) && joined(2, 96, as_it_is) && joined(4, 64, as_it_is));
    // Five columns of 8, six of 4, of a half.
    assert!(!joined(2, 80, as_it_is) && !joined(4, 48, as_it_is));
    // 32 elements rotate, in two columns; 96 others make six columns of two chunks, 48 make three.
    let part = |offset| {
        move |block: &mut fflash_rope_params| {
            (block.rotary_pairs, block.rotary_offset) = (16, offset);
        }
    };
    assert!(joined(2, 128, &part(0)) && joined(2, 128, &part(32)));
    assert!(!joined(2, 128, &part(8)) && !joined(2, 80, &part(0)));
    let changes: [&dyn Fn(&mut fflash_rope_params); 3] = [
        &|block| block.cache_type = FFLASH_PAGES_SAME as i32,
        &|block| block.pages[0].head_stride += 8,
        &|block| block.pages[1].pages = std::ptr::without_provenance_mut(520),
    ];
    for (index, change) in changes.iter().enumerate() {
        assert!(!joined(2, 64, change), "change {index}");
    }
}

#[test]
fn heads_too_long_for_a_block_are_refused() {
    let mut long = normed(block(1, [1, 0], 8192));
    long.rotary_pairs = 64;
    let refused = geometry(&mut long, 2).map(|_| ());
    let unsupported = Unsupported::HeadTooLong {
        op: "rope",
        head_dim: 8192,
        limit: 4096,
    };
    assert_eq!(refused, Err(unsupported.into()));
    let mut in_place = block(1, [1, 0], 8192);
    in_place.rotary_pairs = 64;
    assert!(geometry(&mut in_place, 2).is_ok());
}

/// What the kernels rely on.
#[test]
fn the_preconditions_of_the_kernels_hold() {
    let counts = [
        [1, 0],
        [1, 1],
        [4, 1],
        [28, 4],
        [32, 8],
        [0, 3],
        [1000, 1000],
    ];
    for pairs in 1..=MAX_PAIRS as i32 {
        for of in counts {
            for (tokens, bytes) in [(1, 2), (100_000, 2), (513, 4), (i32::MAX.into(), 4)] {
                let plain = block(tokens, of, 2 * pairs);
                for block in [plain, cached(plain), normed(plain), normed(cached(plain))] {
                    holds(block, bytes);
                }
            }
        }
    }
}

fn holds(mut block: fflash_rope_params, bytes: usize) {
    let (kind, geometry) = geometry(&mut block, bytes).expect("supported");
    let heads = block.heads.map(|heads| heads.heads);
    let case = format!(
        "{} tokens, {heads:?} heads, {} pairs: {geometry:?}",
        block.tokens, block.rotary_pairs
    );
    let [x, y, z] = geometry.block.map(u64::from);
    let chunk = match kind {
        RopeKind::Wide => 16 / bytes as u64,
        RopeKind::Narrow => 1,
    };
    assert_eq!(
        block.columns as u64 * chunk,
        block.rotary_pairs as u64,
        "{case}"
    );
    assert!(x * y * z <= MAX_THREADS && z <= MAX_BLOCK_Z, "{case}");
    assert!(
        u64::from(geometry.grid[0]) * z >= block.tokens as u64,
        "{case}"
    );
    assert!(geometry.shared_bytes <= MAX_SHARED_BYTES, "{case}");
    if block.normalise != 0 {
        assert_eq!(x, (block.columns as u64).next_power_of_two(), "{case}");
        assert!((x * y * z).is_multiple_of(WARP), "{case}");
    } else {
        assert_eq!(x, block.columns as u64, "{case}");
    }
    let threads: i32 = block.heads.iter().map(|heads| heads.threads).sum();
    assert!(threads as u64 <= y * u64::from(geometry.grid[1]), "{case}");
    let held = if block.normalise != 0 {
        NORM_HEADS
    } else {
        HEADS
    };
    for heads in block.heads {
        assert_eq!(heads.threads > 0, heads.heads > 0, "{case}");
        let visited = heads.threads as u64 * held * block.lots as u64;
        assert!(visited >= heads.heads as u64, "{case}");
    }
}
