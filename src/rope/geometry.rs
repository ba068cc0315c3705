//! Launch geometry of the RoPE kernels: a pure function of the parameter block, which receives what depends on it. It mirrors
//! kernels/rope/rope.cuh, which says what the numbers mean.

use crate::error::{Error, Unsupported};
use crate::launch::Geometry;
use crate::launch::params::{
    FFLASH_PAGES_SAME, fflash_rope_heads, fflash_rope_pages, fflash_rope_params, fflash_strides3,
};
use crate::variant::RopeKind;

/// The largest block.
const MAX_THREADS: u64 = 256;
/// The largest block in z (CUDA C++ Programming Guide, "Compute Capabilities").
const MAX_BLOCK_Z: u64 = 64;
/// Threads of a warp.
const WARP: u64 = 32;
/// Heads that a thread holds at once.
const HEADS: u64 = 4;
/// The same with the norm.
const NORM_HEADS: u64 = 2;
/// Tokens from twice which on blocks get more than one: below, more blocks are worth more.
const MANY_TOKENS: u64 = 512;
/// Heads of a thread where blocks have more than one token.
const MANY_HEADS: u64 = 8;
/// Bytes of shared memory for where a token goes in the cache.
const PLACE_BYTES: u64 = 16;

/// The most dynamic shared memory that [`geometry`] asks for. Angles: a token takes 16 bytes for each chunk of 4 pairs or more, and up
/// to 48 floats of padding for each of its cosines and sines; a block has at most 64 tokens and 256 chunks, of 8 pairs each.
/// Weights: two heads of at most 512 chunks of 16 bytes.
pub(crate) const MAX_SHARED_BYTES: u32 = 48 * 1024;

/// Heads longer than this are refused where they are moved whole: a block has a thread for every two chunks.
pub(crate) const fn longest_head(kind: RopeKind, element_bytes: usize) -> usize {
    let chunk = match kind {
        RopeKind::Wide => 16 / element_bytes,
        RopeKind::Narrow => 1,
    };
    2 * MAX_THREADS as usize * chunk
}

/// True when every head is moved whole, not only what rotates.
fn moves_whole_heads(block: &fflash_rope_params) -> bool {
    let elsewhere = |heads: &fflash_rope_heads| heads.x != heads.out.cast_const();
    is_fused(block) || block.heads[..2].iter().any(elsewhere)
}

/// True for what only the fused kernels do.
pub(crate) fn is_fused(block: &fflash_rope_params) -> bool {
    block.normalise != 0 || !block.slots.is_null()
}

/// Which kernel, and with what grid, block and shared memory, for this block of parameters and
/// `element_bytes`.
///
/// # Errors
/// [`Unsupported::HeadTooLong`].
pub(crate) fn geometry(
    block: &mut fflash_rope_params,
    element_bytes: usize,
) -> Result<(RopeKind, Geometry), Error> {
    let bytes = element_bytes as u64;
    let (kind, chunk) = if misaligned(block, bytes) {
        (RopeKind::Narrow, 1)
    } else {
        (RopeKind::Wide, 16 / bytes)
    };
    let (pairs, head_dim) = (block.rotary_pairs as u64, block.head_dim as u64);
    let mut columns = pairs / chunk;
    if moves_whole_heads(block) {
        let rest = (head_dim - 2 * pairs) / chunk;
        columns += rest.div_ceil(2);
    }
    if columns > MAX_THREADS {
        return Err(Unsupported::HeadTooLong {
            op: "rope",
            head_dim: block.head_dim as usize,
            limit: longest_head(kind, element_bytes),
        }
        .into());
    }
    let norm = block.normalise != 0;
    let lanes = if norm {
        columns.next_power_of_two()
    } else {
        columns
    };
    let tokens = block.tokens as u64;
    let (in_y, grid_y) = divide_threads(block, MAX_THREADS / lanes, lanes);
    let room = (MAX_THREADS / (lanes * in_y)).min(MAX_BLOCK_Z);
    let mut of_block = (tokens / MANY_TOKENS).clamp(1, room);
    if has_many_tokens(block) {
        // Tokens that fill whole warps.
        let filling = WARP >> (lanes * in_y).trailing_zeros().min(WARP.ilog2());
        if filling <= room {
            of_block = of_block
                .next_multiple_of(filling)
                .min(room / filling * filling);
        }
    }
    let (region, plane) = match kind {
        // In the order of pairs.
        RopeKind::Wide if block.interleaved != 0 => (pairs / 2, pairs),
        // Regions of 16 more than a multiple of 32 floats do not conflict.
        RopeKind::Wide => {
            let region = (pairs.div_ceil(2) + 15) / 32 * 32 + 16;
            (region, 2 * region)
        }
        RopeKind::Narrow => (pairs, pairs),
    };
    let weights = if norm { 2 * head_dim * bytes } else { 0 };
    let shared = of_block * (2 * plane * size_of::<f32>() as u64 + PLACE_BYTES) + weights;
    block.columns = columns as i32;
    block.cache_joined = i32::from(kind == RopeKind::Wide && joins_columns(block, columns * chunk));
    block.angle_region = region as i32;
    let geometry = Geometry {
        grid: [tokens.div_ceil(of_block) as u32, grid_y as u32, 1],
        block: [lanes as u32, in_y as u32, of_block as u32],
        shared_bytes: shared as u32,
    };
    Ok((kind, geometry))
}

/// True where blocks get more than one token.
fn has_many_tokens(block: &fflash_rope_params) -> bool {
    block.tokens as u64 >= 2 * MANY_TOKENS
}

/// Divides threads in y among the heads of q, k and v, and says how many a block has, with room for `room`, and how many blocks there are.
fn divide_threads(block: &mut fflash_rope_params, room: u64, lanes: u64) -> (u64, u64) {
    let norm = block.normalise != 0;
    let held = if norm { NORM_HEADS } else { HEADS };
    // With many tokens, fewer threads to a token are enough: what a thread computes before the first head serves more.
    let each = match (has_many_tokens(block), norm) {
        (false, _) => held,
        // Warps that hold heads of q, k and v would convert to FP8 in more of them.
        (true, false) if block.cache_type == FFLASH_PAGES_SAME as i32 => MANY_HEADS,
        (true, _) => MANY_HEADS / 2,
    };
    let heads = block.heads.map(|heads| heads.heads as u64);
    let roles = heads.iter().filter(|&&heads| heads > 0).count() as u64;
    let wanted: u64 = heads.iter().map(|heads| heads.div_ceil(each)).sum();
    let mut in_y = wanted.clamp(1, room);
    if norm && lanes < WARP {
        in_y = in_y.next_multiple_of(WARP / lanes);
    }
    // Threads serve heads of q, of k or of v, so there must be one for each.
    let grid_y = roles.div_ceil(in_y).max(1);
    let threads = (in_y * grid_y).min(wanted.max(roles));
    let total: u64 = heads.iter().sum();
    let mut left = threads;
    let mut roles_left = roles;
    let mut lots = 1;
    for (heads, &count) in block.heads.iter_mut().zip(&heads) {
        if count == 0 {
            heads.threads = 0;
            continue;
        }
        roles_left -= 1;
        // Its share to the nearest, but one for each of those to come; the last gets what is left.
        let share = if roles_left == 0 {
            left
        } else {
            ((2 * count * threads + total) / (2 * total)).clamp(1, left - roles_left)
        };
        left -= share;
        heads.threads = share as i32;
        lots = lots.max(count.div_ceil(share * held));
    }
    block.lots = lots as i32;
    (in_y, grid_y)
}

/// True when heads cannot be moved in whole, aligned 16-byte accesses.
fn misaligned(block: &fflash_rope_params, element_bytes: u64) -> bool {
    let bytes = |elements: u64| elements.wrapping_mul(element_bytes);
    let of = |strides: &fflash_strides3| bytes(strides.tokens as u64) | bytes(strides.heads as u64);
    let of_heads = |heads: &fflash_rope_heads| {
        let addresses = heads.x as u64 | heads.out as u64 | heads.weight as u64;
        addresses | of(&heads.x_strides) | of(&heads.out_strides)
    };
    // Pages of FP8 are written in accesses of at least as many bytes as a chunk has elements: their address counts like an index.
    let same = block.cache_type == FFLASH_PAGES_SAME as i32;
    let of_pages = |pages: &fflash_rope_pages| {
        let address = pages.pages as u64;
        let address = if same { address } else { bytes(address) };
        let strides = [pages.page_stride, pages.token_stride, pages.head_stride];
        strides
            .iter()
            .fold(address, |all, &stride| all | bytes(stride as u64))
    };
    let mut all = bytes(block.rotary_pairs as u64) | bytes(block.rotary_offset as u64);
    if moves_whole_heads(block) {
        all |= bytes(block.head_dim as u64);
    }
    all = block
        .heads
        .iter()
        .fold(all, |all, heads| all | of_heads(heads));
    all = block
        .pages
        .iter()
        .fold(all, |all, pages| all | of_pages(pages));
    !all.is_multiple_of(16)
}

/// True when the FP8 elements of columns next to each other fill aligned accesses of 16 bytes. `moved`: elements of the first chunks
/// of all columns.
fn joins_columns(block: &fflash_rope_params, moved: u64) -> bool {
    let of_head = block.rotary_pairs | block.rotary_offset | block.head_dim;
    let of_pages = |pages: &fflash_rope_pages| {
        let strides = pages.page_stride | pages.token_stride | pages.head_stride;
        pages.pages as u64 | strides as u64
    };
    let all = moved | of_head as u64 | of_pages(&block.pages[0]) | of_pages(&block.pages[1]);
    block.cache_type != FFLASH_PAGES_SAME as i32 && all.is_multiple_of(16)
}

#[cfg(test)]
mod tests;
