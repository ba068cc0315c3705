//! One strategy for all calls: every type, shape, layout and option, in all combinations.

use std::num::NonZeroU32;

use crate::common::{Arrangement, arrangement};
use ferroflash::{DType, Mask, PageLayout, Prefill};
use proptest::prelude::*;

/// One drawn call.
#[derive(Debug, Clone)]
pub struct Case {
    pub dtype: DType,
    pub op: Prefill,
    pub storage: Storage,
    /// seqlen_q and seqlen_k of every request; of a dense batch the first counts for all.
    pub lengths: Vec<[usize; 2]>,
    pub kv_heads: usize,
    pub group_size: usize,
    pub head_dim: usize,
    pub head_dim_v: usize,
    /// Of q, k, v, o.
    pub arrangements: [Arrangement; 4],
    pub lse: Option<Arrangement>,
    pub options: Options,
    /// Standard deviation of q: large ones give logits that only an online maximum survives.
    pub spread: f64,
    pub seed: u64,
}

/// Where requests lie.
#[derive(Debug, Clone)]
pub enum Storage {
    Dense { in_place: bool },
    Packed,
    Paged(Pages),
}

/// A drawn cache.
#[derive(Debug, Clone)]
pub struct Pages {
    pub page_size: usize,
    pub layout: PageLayout,
    /// Pages that no request has.
    pub spare: usize,
    pub origin: Origin,
}

/// Who made the page table.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    Host,
    Device,
    Trusted,
}

/// Drawn operands that most calls do without.
#[derive(Debug, Clone)]
pub struct Options {
    pub sinks: Option<Sinks>,
    /// One slope for all requests, or one for each.
    pub alibi: Option<bool>,
    pub bias: Option<DrawnBias>,
    pub bits: Option<DrawnBits>,
    pub blocks: Option<DrawnBlocks>,
}

#[derive(Debug, Clone, Copy)]
pub enum Sinks {
    Usual,
    /// Of which some are -inf and some far above all logits.
    Extreme,
}

#[derive(Debug, Clone)]
pub struct DrawnBias {
    pub dtype: DType,
    pub at: Arrangement,
    /// Repeats along batch, heads, queries.
    pub repeats: [bool; 3],
    /// The share of -inf.
    pub hidden: f64,
}

#[derive(Debug, Clone)]
pub struct DrawnBits {
    pub at: Arrangement,
    /// The share of keys that are seen.
    pub seen: f64,
}

#[derive(Debug, Clone)]
pub struct DrawnBlocks {
    pub block_q: usize,
    pub block_k: usize,
    /// One for all requests, for all heads.
    pub shared: [bool; 2],
    /// The share of blocks that are seen.
    pub seen: f64,
}

impl Case {
    pub fn requests(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        let dense = matches!(self.storage, Storage::Dense { .. });
        let first = self.lengths[0];
        self.lengths
            .iter()
            .map(move |&lengths| if dense { first } else { lengths })
    }

    pub fn qo_heads(&self) -> usize {
        self.kv_heads * self.group_size
    }

    /// Products of q kᵀ: what the reference takes its time for, a microsecond for every thousand.
    pub fn products(&self) -> usize {
        let pairs: usize = self.requests().map(|[q, k]| q * k).sum();
        pairs * self.qo_heads() * self.head_dim.max(self.head_dim_v)
    }
}

/// Lengths around the edges of tiles.
fn seqlen() -> impl Strategy<Value = usize> {
    let edge = (
        0..=2usize,
        prop::sample::select(vec![16usize, 32, 64, 128]),
        1..=2usize,
    )
        .prop_map(|(offset, tile, count)| tile * count + offset - 1);
    prop_oneof![2 => Just(0), 2 => Just(1), 4 => edge, 3 => 2..40usize, 3 => 2..200usize]
}

/// So many keys, too, that their places are found more than once (`kernels/attention/gathered_tiles.cuh`).
fn seqlen_k() -> impl Strategy<Value = usize> {
    prop_oneof![9 => seqlen(), 1 => 400..1300usize]
}

fn mask() -> impl Strategy<Value = Mask> {
    let side = prop_oneof![Just(None), (0..100u32).prop_map(Some), Just(Some(u32::MAX))];
    let size = prop_oneof![1..70u32, Just(u32::MAX)];
    let chunked = (size, any::<bool>()).prop_map(|(size, causal)| Mask::Chunked {
        size: NonZeroU32::new(size).expect("not 0"),
        causal,
    });
    prop_oneof![
        2 => Just(Mask::Full),
        3 => Just(Mask::Causal),
        3 => (side.clone(), side).prop_map(|(left, right)| Mask::Window { left, right }),
        2 => chunked,
        1 => Just(Mask::PrefixLm),
    ]
}

fn op() -> impl Strategy<Value = Prefill> {
    let scale =
        prop::option::of(prop_oneof![9 => 0.01f32..0.5, 1 => Just(-0.1f32), 1 => Just(0.0)]);
    let sinks = prop_oneof![3 => Just(0u32), 1 => 1..40u32, 1 => Just(u32::MAX)];
    let softcap = prop::option::weighted(0.2, 1f32..60.0);
    (mask(), scale, softcap, sinks).prop_map(|(mask, softmax_scale, softcap, sink_tokens)| {
        Prefill {
            mask,
            sink_tokens,
            softmax_scale,
            softcap,
        }
    })
}

fn storage() -> impl Strategy<Value = Storage> {
    let size =
        prop_oneof![1 => Just(1usize), 4 => prop::sample::select(vec![2, 3, 7, 16, 64, 256])];
    let layout = prop::sample::select(vec![PageLayout::Nhd, PageLayout::Hnd]);
    let origin = prop::sample::select(vec![Origin::Host, Origin::Device, Origin::Trusted]);
    let pages = (size, layout, 0..3usize, origin).prop_map(|(page_size, layout, spare, origin)| {
        Storage::Paged(Pages {
            page_size,
            layout,
            spare,
            origin,
        })
    });
    prop_oneof![
        3 => Just(Storage::Dense { in_place: false }),
        1 => Just(Storage::Dense { in_place: true }),
        3 => Just(Storage::Packed),
        3 => pages,
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let float = prop::sample::select(vec![DType::F16, DType::BF16, DType::F32]);
    let bias = (
        float,
        arrangement(4, 1),
        any::<[bool; 3]>(),
        prop::sample::select(vec![0.0, 0.1, 0.9]),
    )
        .prop_map(|(dtype, at, repeats, hidden)| DrawnBias {
            dtype,
            at,
            repeats,
            hidden,
        });
    let bits = (
        arrangement(3, 1),
        prop::sample::select(vec![0.02, 0.5, 0.9]),
    )
        .prop_map(|(at, seen)| DrawnBits { at, seen });
    let block = || prop_oneof![1 => Just(1usize), 4 => prop::sample::select(vec![5, 16, 64, 100])];
    let blocks = (
        block(),
        block(),
        any::<[bool; 2]>(),
        prop::sample::select(vec![0.1, 0.5, 0.9]),
    )
        .prop_map(|(block_q, block_k, shared, seen)| DrawnBlocks {
            block_q,
            block_k,
            shared,
            seen,
        });
    let sinks = prop::sample::select(vec![Sinks::Usual, Sinks::Usual, Sinks::Extreme]);
    (
        prop::option::weighted(0.3, sinks),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, bias),
        prop::option::weighted(0.2, bits),
        prop::option::weighted(0.2, blocks),
    )
        .prop_map(|(sinks, alibi, bias, bits, blocks)| Options {
            sinks,
            alibi,
            bias,
            bits,
            blocks,
        })
}

/// Half of the calls have the options that cost nothing, at most.
fn op_and_options() -> impl Strategy<Value = (Prefill, Options)> {
    (op(), options(), any::<bool>()).prop_map(|(mut op, mut options, few)| {
        if few {
            op.sink_tokens = 0;
            options = Options {
                sinks: options.sinks,
                alibi: None,
                bias: None,
                bits: None,
                blocks: None,
            };
        }
        (op, options)
    })
}

fn head_dims() -> impl Strategy<Value = (usize, usize)> {
    let common = prop::sample::select(vec![64usize, 128, 256, 80, 96, 192]).prop_map(|d| (d, d));
    let any = (1..=32usize).prop_map(|n| (8 * n, 8 * n));
    let pairs = (1..=72usize, 1..=64usize).prop_map(|(n, m)| (8 * n, 8 * m));
    let large = prop::sample::select(vec![(512usize, 512usize), (192, 128), (576, 512)]);
    prop_oneof![5 => common, 2 => any, 1 => pairs, 1 => large]
}

/// Logits of up to some ten thousand. In f16 products must stay below 65504.
fn largest_spread(dtype: DType, op: &Prefill, head_dim: usize) -> f64 {
    let root = (head_dim as f64).sqrt();
    let scale = f64::from(op.scale_for(head_dim)).abs();
    let spread = 4000.0 / (root * scale.max(1e-3));
    match dtype {
        DType::F16 => spread.min(1e4 / root),
        _ => spread,
    }
}

/// Calls of up to so many products.
pub fn case(products: usize) -> impl Strategy<Value = Case> {
    let shape = (
        prop::collection::vec((seqlen(), seqlen_k()).prop_map(<[usize; 2]>::from), 1..=4),
        1..=3usize,
        prop::sample::select(vec![1usize, 2, 3, 4, 7]),
        head_dims(),
    );
    let layout = || arrangement(4, 8);
    (
        prop::sample::select(vec![
            DType::F16,
            DType::BF16,
            DType::F16,
            DType::BF16,
            DType::F32,
        ]),
        op_and_options(),
        storage(),
        shape,
        [layout(), layout(), layout(), layout()],
        prop::option::of(arrangement(3, 1)),
        prop::sample::select(vec![1.0, 1.0, 30.0, f64::INFINITY]),
        any::<u64>(),
    )
        .prop_map(
            |(dtype, (op, options), storage, shape, arrangements, lse, spread, seed)| {
                let (lengths, kv_heads, group_size, (head_dim, head_dim_v)) = shape;
                let in_place = matches!(storage, Storage::Dense { in_place: true });
                Case {
                    dtype,
                    op,
                    storage,
                    lengths,
                    kv_heads,
                    group_size,
                    head_dim: if in_place { head_dim_v } else { head_dim },
                    head_dim_v,
                    arrangements,
                    lse,
                    options,
                    spread: spread.min(largest_spread(dtype, &op, head_dim.max(head_dim_v))),
                    seed,
                }
            },
        )
        .prop_filter("too large for a test", move |case| {
            case.products() < products
        })
}
