//! Drawn calls.

use ferroflash::rope::scaling;
use ferroflash::{
    Axes, DType, Direction, Frequencies, InvFreq, PageLayout, QkNorm, Rope, RopeStyle, WeightForm,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::common::{Arrangement, arrangement};

/// Positions of a drawn table.
pub const TABLE: usize = 50;

/// How heads are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Over,
    Into,
    ToCache,
}

/// How positions are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    I32,
    I64,
    F32,
    F64,
    Range,
    Packed,
}

#[derive(Debug, Clone)]
pub struct Cache {
    pub dtype: Option<DType>,
    pub page_size: usize,
    pub layout: PageLayout,
    pub pages: Arrangement,
    pub num_pages: usize,
    pub slots: Vec<Option<usize>>,
    /// Of k and v, per head or for all.
    pub scales: [f32; 2],
    pub per_head: bool,
}

/// One drawn call.
#[derive(Debug, Clone)]
pub struct Case {
    pub op: Rope,
    pub tokens: usize,
    pub q_heads: usize,
    pub k_heads: Option<usize>,
    pub head_dim: usize,
    pub places: [Place; 2],
    /// q, k, v, and out of q and k.
    pub arrangements: [Arrangement; 5],
    pub table: Arrangement,
    pub table_dtype: DType,
    pub form: Form,
    /// `[axes, tokens]`.
    pub positions: Vec<f64>,
    /// Packed: tokens of each sequence.
    pub lengths: Vec<usize>,
    pub weights: [bool; 2],
    pub cache: Option<Cache>,
    /// Of the inputs.
    pub deviation: f64,
    pub seed: u64,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alone,
    Fused,
    Joined,
}

/// RoPE without norm and cache.
pub fn alone() -> BoxedStrategy<Case> {
    case(Kind::Alone)
}

/// With a norm, a cache, or both.
pub fn fused() -> BoxedStrategy<Case> {
    case(Kind::Fused)
}

/// With a cache in FP8 of aligned heads, whose parts are whole vectors of bytes.
pub fn joined() -> BoxedStrategy<Case> {
    case(Kind::Joined)
}

/// Even numbers up to the head dimension, whole vectors more often than not, with an offset that leaves room.
fn rotated(head_dim: usize, rng: &mut StdRng) -> (Option<usize>, usize) {
    let even = head_dim / 2 * 2;
    let (dim, unit) = match rng.random_range(0..5) {
        0 | 1 if head_dim == even => return (None, 0),
        0 | 1 => (even, 1),
        2 => (2 * rng.random_range(1..=head_dim / 2), 1),
        _ => (
            (16 * rng.random_range(1..=head_dim.div_ceil(16))).min(even),
            8,
        ),
    };
    let room = (head_dim - dim) / unit;
    let offset = if rng.random() {
        unit * rng.random_range(0..=room)
    } else {
        0
    };
    (Some(dim), offset)
}

fn sections(pairs: usize, axes: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..axes).map(|_| rng.random_range(0..=pairs)).collect();
    cuts.extend([0, pairs]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn axes(pairs: usize, rng: &mut StdRng) -> Axes {
    let count = rng.random_range(1..=4);
    match rng.random_range(0..6) {
        0 => Axes::Sections(sections(pairs, count, rng)),
        1 => {
            let each = pairs / count;
            let mut sections = vec![each; count];
            sections[0] = pairs - (count - 1) * each;
            Axes::Interleaved(sections)
        }
        2 => Axes::Separate(sections(pairs, count, rng)),
        _ => Axes::One,
    }
}

fn frequencies(rotary_dim: usize, rng: &mut StdRng) -> Frequencies {
    let base = *[1e4, 5e5, 1e6, 100.5].choose(rng);
    let explicit = |frequencies: Result<InvFreq, _>| {
        Frequencies::Explicit(frequencies.expect("valid options"))
    };
    match rng.random_range(0..10) {
        0 | 1 => Frequencies::Table,
        2 => explicit(scaling::linear(base, rotary_dim, 3.0)),
        3 if rotary_dim > 2 => explicit(scaling::ntk(base, rotary_dim, 5.5)),
        4 => explicit(scaling::yarn(
            base,
            rotary_dim,
            &scaling::Yarn::new(8.0, 4096),
        )),
        5 => {
            let radians: Vec<f64> = (0..rotary_dim / 2).map(|_| rng.random::<f64>()).collect();
            explicit(InvFreq::new(&radians))
        }
        _ => Frequencies::Base {
            base,
            scale: *[1.0, 0.125, 0.3].choose(rng),
        },
    }
}

/// A random element.
trait Choose<T> {
    fn choose(&self, rng: &mut StdRng) -> &T;
}

impl<T, const N: usize> Choose<T> for [T; N] {
    fn choose(&self, rng: &mut StdRng) -> &T {
        &self[rng.random_range(0..N)]
    }
}

fn positions(op: &Rope, tokens: usize, rng: &mut StdRng) -> (Form, Vec<f64>, Vec<usize>) {
    let is_table = op.frequencies == Frequencies::Table;
    let one = op.axes.count() == 1;
    let form = loop {
        let form = *[
            Form::I32,
            Form::I64,
            Form::F32,
            Form::F64,
            Form::Range,
            Form::Packed,
        ]
        .choose(rng);
        let real = matches!(form, Form::F32 | Form::F64);
        let rule = matches!(form, Form::Range | Form::Packed);
        if !(is_table && real || !one && rule || is_table && rule && tokens > TABLE) {
            break form;
        }
    };
    let largest: i64 = if is_table {
        TABLE as i64 - 1
    } else {
        *[10, 1000, 1_000_000, i32::MAX.into()].choose(rng)
    };
    let mut whole = |largest: i64| rng.random_range(0..=largest) as f64;
    let count = op.axes.count() * tokens;
    match form {
        Form::I32 | Form::I64 => (form, (0..count).map(|_| whole(largest)).collect(), vec![]),
        Form::F32 | Form::F64 => {
            let mut rng = StdRng::seed_from_u64(whole(1 << 30) as u64);
            let mut real = || {
                let x = (rng.random::<f64>() * 2.0 - 1.0) * largest as f64;
                if form == Form::F32 {
                    f64::from(x as f32)
                } else {
                    x
                }
            };
            (form, (0..count).map(|_| real()).collect(), vec![])
        }
        Form::Range => {
            let first = whole(largest + 1 - tokens.min(largest as usize + 1) as i64);
            (
                form,
                (0..tokens).map(|t| first + t as f64).collect(),
                vec![],
            )
        }
        Form::Packed => {
            let mut lengths = sections(tokens, 5, rng);
            lengths.shuffle(rng);
            let mut positions = Vec::new();
            for &length in &lengths {
                let room = largest + 1 - length as i64;
                let first = if room > 0 {
                    rng.random_range(0..=room)
                } else {
                    0
                } as f64;
                positions.extend((0..length).map(|i| first + i as f64));
            }
            (form, positions, lengths)
        }
    }
}

fn cache(kind: Kind, tokens: usize, pages: Arrangement, rng: &mut StdRng) -> Cache {
    let f8 = [Some(DType::F8E4M3), Some(DType::F8E5M2)];
    let dtype = *f8.choose(rng);
    let page_size = *[1, 2, 3, 16, 64].choose(rng);
    let num_pages = tokens.div_ceil(page_size) + rng.random_range(0..3);
    let mut all: Vec<usize> = (0..num_pages * page_size).collect();
    all.shuffle(rng);
    let slots = all.into_iter().take(tokens);
    let slots = slots
        .map(|slot| (!rng.random_bool(0.2)).then_some(slot))
        .collect();
    Cache {
        dtype: dtype.filter(|_| kind == Kind::Joined || rng.random()),
        page_size,
        layout: *[PageLayout::Nhd, PageLayout::Hnd].choose(rng),
        pages,
        num_pages,
        slots,
        scales: [*[1.0, 0.03, 0.7].choose(rng), *[1.0, 0.01, 2.0].choose(rng)],
        per_head: rng.random(),
    }
}

fn case(kind: Kind) -> BoxedStrategy<Case> {
    let (fused, is_joined) = (kind != Kind::Alone, kind == Kind::Joined);
    let head_dim = prop_oneof![
        2 => prop::sample::select(vec![16usize, 32, 64, 80, 96, 128, 256, 512]),
        1 => 2..140usize,
    ];
    let head_dim = head_dim.prop_map(move |dim| match is_joined {
        true => dim.next_multiple_of(64),
        false => dim,
    });
    let heads = || prop_oneof![1 => Just(0), 3 => 1..6usize, 1 => 6..40usize];
    let shape = prop_oneof![
        8 => (1..6usize, heads(), prop::option::of(heads())),
        1 => (6..40usize, heads(), prop::option::of(heads())),
        1 => (1025..1040usize, 1..3usize, Just(None)),
    ];
    let units = match is_joined {
        true => vec![16usize],
        false => vec![8, 8, 8, 4, 1],
    };
    let layouts = prop::sample::select(units).prop_flat_map(|unit| {
        let of = || arrangement(3, unit);
        ([of(), of(), of(), of(), of()], arrangement(4, unit))
    });
    (shape, head_dim, layouts, arrangement(3, 1), any::<u64>())
        .prop_map(
            move |(shape, head_dim, (arrangements, pages), table, seed)| {
                let (tokens, q_heads, k_heads) = shape;
                let rng = &mut StdRng::seed_from_u64(seed);
                let (rotary_dim, rotary_offset) = match kind {
                    Kind::Joined => *[(None, 0), (Some(32), 0), (Some(32), 32)].choose(rng),
                    _ => rotated(head_dim, rng),
                };
                let dim = rotary_dim.unwrap_or(head_dim);
                let with_cache = fused && k_heads.is_some() && (is_joined || rng.random_bool(0.7));
                let norm = (fused && !(with_cache && rng.random())).then(|| QkNorm {
                    eps: *[1e-6, 0.3, 0.0].choose(rng),
                    weight: *[WeightForm::Plain, WeightForm::OnePlus].choose(rng),
                });
                let frequencies = frequencies(dim, rng);
                let op = Rope {
                    style: *[RopeStyle::HalfSplit, RopeStyle::Interleaved].choose(rng),
                    rotary_dim,
                    rotary_offset,
                    frequencies,
                    direction: *[Direction::Forward, Direction::Forward, Direction::Inverse]
                        .choose(rng),
                    axes: axes(dim / 2, rng),
                    norm,
                };
                let (form, positions, lengths) = positions(&op, tokens, rng);
                let place = *[Place::Over, Place::Into].choose(rng);
                let k_place = match with_cache {
                    true => *[Place::Over, Place::Into, Place::ToCache].choose(rng),
                    false => *[Place::Over, Place::Into].choose(rng),
                };
                Case {
                    tokens,
                    q_heads,
                    k_heads,
                    head_dim,
                    places: [place, k_place],
                    arrangements,
                    table,
                    table_dtype: *DType::FLOATS.choose(rng),
                    form,
                    positions,
                    lengths,
                    weights: [
                        op.norm.is_some() && rng.random(),
                        op.norm.is_some() && k_heads.is_some() && rng.random(),
                    ],
                    cache: with_cache.then(|| cache(kind, tokens, pages, rng)),
                    // Squares of the larger and the smaller ones are outside the range of f32.
                    deviation: if op.norm.is_some() && rng.random_bool(0.2) {
                        *[1e25, 1e-25, 1e-3].choose(rng)
                    } else {
                        1.0
                    },
                    op,
                    seed,
                }
            },
        )
        .boxed()
}
