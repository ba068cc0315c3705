//! Operands of RoPE.

use float8::{F8E4M3, F8E5M2};
use half::{bf16, f16};

use crate::dtype::{DType, Element};
use crate::metadata::{IndexFaults, PageLayout, Positions, Slots};
use crate::tensor::{Layout, TensorView, TensorViewMut};

/// Where the heads of q or k are read, and where the result goes.
#[derive(Debug)]
pub enum Heads<'a, T> {
    /// `[tokens, heads, head_dim]`, overwritten. What is not rotated is not touched (but normalised, where a norm is asked for).
    InPlace(TensorViewMut<'a, T, 3>),
    /// Read from one tensor, written whole to another.
    Into {
        /// `[tokens, heads, head_dim]`.
        x: TensorView<'a, T, 3>,
        /// The same shape.
        out: TensorViewMut<'a, T, 3>,
    },
    /// k that goes to the cache only: `[tokens, heads, head_dim]`.
    ToCache(TensorView<'a, T, 3>),
}

impl<T> Heads<'_, T> {
    /// The layout of what is read.
    pub(crate) fn layout(&self) -> &Layout<3> {
        match self {
            Heads::InPlace(x) => x.layout(),
            Heads::Into { x, .. } | Heads::ToCache(x) => x.layout(),
        }
    }

    /// `[tokens, heads, head_dim]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout().shape()
    }
}

impl<'a, T> From<TensorViewMut<'a, T, 3>> for Heads<'a, T> {
    fn from(x: TensorViewMut<'a, T, 3>) -> Self {
        Heads::InPlace(x)
    }
}

/// A table `[positions, 2, rotary_dim / 2]`: the cosines, then the sines of every position
/// ([`Kernels::rope_table`](crate::Kernels::rope_table) fills one).
#[derive(Debug)]
pub enum RopeTable<'a> {
    /// In f32.
    F32(TensorView<'a, f32, 3>),
    /// In f16.
    F16(TensorView<'a, f16, 3>),
    /// In bf16.
    BF16(TensorView<'a, bf16, 3>),
}

impl RopeTable<'_> {
    pub(crate) fn layout(&self) -> &Layout<3> {
        match self {
            RopeTable::F32(table) => table.layout(),
            RopeTable::F16(table) => table.layout(),
            RopeTable::BF16(table) => table.layout(),
        }
    }
}

impl<'a> From<TensorView<'a, f32, 3>> for RopeTable<'a> {
    fn from(table: TensorView<'a, f32, 3>) -> Self {
        RopeTable::F32(table)
    }
}

/// The weights `[head_dim]` of the norms; where one is absent, ones (in either form of the weight).
#[derive(Debug)]
pub struct NormWeights<'a, T> {
    /// Of q.
    pub q: Option<TensorView<'a, T, 1>>,
    /// Of k.
    pub k: Option<TensorView<'a, T, 1>>,
}

/// What divides values before they are stored as FP8: `stored = round(x * (1 / scale))`, the quotient rounded to f32.
#[derive(Debug)]
pub enum CacheScale<'a> {
    /// One for the tensor; finite and positive.
    Tensor(f32),
    /// One for each head, in device memory: `[num_kv_heads]`. With stride 0, one for all.
    PerHead(TensorView<'a, f32, 1>),
}

/// Pages of FP8.
#[derive(Debug)]
pub struct QuantisedPages<'a, C> {
    /// Like [`KvPages::Same`]'s.
    pub k: TensorViewMut<'a, C, 4>,
    /// Like [`KvPages::Same`]'s.
    pub v: TensorViewMut<'a, C, 4>,
    /// Of k.
    pub k_scale: CacheScale<'a>,
    /// Of v.
    pub v_scale: CacheScale<'a>,
}

/// The pages of a key/value cache, in any strides with contiguous heads.
#[derive(Debug)]
pub enum KvPages<'a, T> {
    /// Values as they are.
    Same {
        /// `[num_pages, page_size, num_kv_heads, head_dim]`, or the middle axes the other way round: see [`PageLayout`].
        k: TensorViewMut<'a, T, 4>,
        /// The same shape.
        v: TensorViewMut<'a, T, 4>,
    },
    /// Rounded to nearest, ties to even, saturating; NaN stays NaN.
    E4M3(QuantisedPages<'a, F8E4M3>),
    /// The same.
    E5M2(QuantisedPages<'a, F8E5M2>),
}

impl<T: Element> KvPages<'_, T> {
    /// The type stored.
    pub fn dtype(&self) -> DType {
        match self {
            KvPages::Same { .. } => T::DTYPE,
            KvPages::E4M3(_) => DType::F8E4M3,
            KvPages::E5M2(_) => DType::F8E5M2,
        }
    }

    /// The layouts of the pages of k and of v.
    pub(crate) fn layouts(&self) -> [Layout<4>; 2] {
        match self {
            KvPages::Same { k, v } => [*k.layout(), *v.layout()],
            KvPages::E4M3(pages) => [*pages.k.layout(), *pages.v.layout()],
            KvPages::E5M2(pages) => [*pages.k.layout(), *pages.v.layout()],
        }
    }

    pub(crate) fn scales(&self) -> Option<[&CacheScale<'_>; 2]> {
        match self {
            KvPages::Same { .. } => None,
            KvPages::E4M3(pages) => Some([&pages.k_scale, &pages.v_scale]),
            KvPages::E5M2(pages) => Some([&pages.k_scale, &pages.v_scale]),
        }
    }
}

/// Writing k and v to a paged cache.
#[derive(Debug)]
pub struct CacheWrite<'a, T> {
    /// `[tokens, num_kv_heads, head_dim]`.
    pub v: TensorView<'a, T, 3>,
    /// Where they go.
    pub pages: KvPages<'a, T>,
    /// The order of the axes of the pages.
    pub layout: PageLayout,
    /// The slot of every token. Tokens without one are rotated and not written.
    pub slots: &'a Slots,
}

/// Operands of [`Kernels::rope`](crate::Kernels::rope).
#[derive(Debug)]
pub struct RopeArgs<'a, T> {
    /// Queries.
    pub q: Heads<'a, T>,
    /// Keys.
    pub k: Option<Heads<'a, T>>,
    /// Where every token stands, on as many axes as [`Rope::axes`](crate::Rope::axes) has.
    pub positions: &'a Positions,
    /// Given exactly when the frequencies are [`Frequencies::Table`](crate::Frequencies::Table).
    pub table: Option<RopeTable<'a>>,
    /// Only with a norm.
    pub weights: Option<NormWeights<'a, T>>,
    /// Only with k.
    pub cache: Option<CacheWrite<'a, T>>,
    /// Needed when positions or slots are checked on the device.
    pub faults: Option<&'a mut IndexFaults>,
}

impl<'a, T> RopeArgs<'a, T> {
    /// q and k, and nothing optional.
    pub fn new(
        q: impl Into<Heads<'a, T>>,
        k: Option<TensorViewMut<'a, T, 3>>,
        positions: &'a Positions,
    ) -> Self {
        Self {
            q: q.into(),
            k: k.map(Heads::from),
            positions,
            table: None,
            weights: None,
            cache: None,
            faults: None,
        }
    }
}
