//! Runs a drawn call, on the device and on the reference.

use std::num::NonZeroU32;

use crate::case::{Case, DrawnBias, DrawnBlocks, Origin, Pages, Sinks, Storage};
use crate::common::{Arrangement, Host, fail, gpu, normal};
use cudarc::driver::CudaSlice;
use ferroflash::reference::{self, AttentionOptions, Exact, HostTensor, Precision, Rounded};
use ferroflash::{
    Bias, BlockMask, BlockShape, CuSeqlens, DType, Element, Float, Layout, Mask, PageLayout,
    PageTable, PrefillArgs, PrefillInPlaceArgs, PrefillOptions, PrefillPagedArgs,
    PrefillVarlenArgs, TensorView, TensorViewMut,
};
use half::{bf16, f16};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What a call gives: `[head of q][query]` of every request, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// Request by request, `[seqlen_q, num_qo_heads, head_dim_v]`.
    pub o: Vec<T>,
    /// Request by request, `[num_qo_heads, seqlen_q]`.
    pub lse: Option<Vec<f32>>,
}

/// Everything a call reads, on the host.
pub struct Inputs<T> {
    /// Request by request: q `[seqlen_q, num_qo_heads, head_dim]`, k, v.
    requests: Vec<Request<T>>,
    pub sinks: Option<Host<f32, 1>>,
    pub slopes: Option<Host<f32, 2>>,
    pub bias: Option<HostBias>,
    pub prefix_lens: Option<Vec<i32>>,
    pub bits: Option<Host<u8, 3>>,
    pub blocks: Option<Blocks>,
}

#[derive(Clone)]
pub struct Request<T> {
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
}

pub enum HostBias {
    F16(Host<f16, 4>),
    BF16(Host<bf16, 4>),
    F32(Host<f32, 4>),
}

/// A block mask as a table.
pub struct Blocks {
    pub drawn: DrawnBlocks,
    pub batch: usize,
    pub heads: usize,
    pub query_blocks: usize,
    pub key_blocks: usize,
    /// `[batch, heads, query_blocks, key_blocks]`.
    pub seen: Vec<bool>,
}

impl HostBias {
    fn at(&self, index: [usize; 4]) -> f64 {
        match self {
            HostBias::F16(host) => host.data[host.layout.position(index)].to_f64(),
            HostBias::BF16(host) => host.data[host.layout.position(index)].to_f64(),
            HostBias::F32(host) => host.data[host.layout.position(index)].into(),
        }
    }
}

impl Blocks {
    fn sees(&self, request: usize, kv_head: usize, query: usize, key: usize) -> bool {
        let list = (request % self.batch * self.heads + kv_head % self.heads) * self.query_blocks
            + query / self.drawn.block_q;
        self.seen[list * self.key_blocks + key / self.drawn.block_k]
    }

    fn upload(&self) -> BlockMask {
        let mut offsets = vec![0];
        let mut listed = Vec::new();
        for list in self.seen.chunks(self.key_blocks) {
            listed.extend((0..self.key_blocks).filter(|&block| list[block]));
            offsets.push(listed.len());
        }
        let size = |n: usize| NonZeroU32::new(n as u32).expect("not 0");
        let shape = BlockShape {
            block_q: size(self.drawn.block_q),
            block_k: size(self.drawn.block_k),
            query_blocks: self.query_blocks,
            key_blocks: self.key_blocks,
        };
        let stream = &gpu().stream;
        BlockMask::new(stream, shape, self.batch, self.heads, &offsets, &listed)
            .expect("valid lists")
    }
}

/// A tensor of rank R with the strides an axis repeats along set to 0.
fn repeating<T: Element, const R: usize>(
    at: &Arrangement,
    mut shape: [usize; R],
    repeats: &[bool],
    fill: impl FnMut() -> f64,
) -> Host<T, R> {
    let full = shape;
    for (axis, &repeats) in repeats.iter().enumerate() {
        if repeats {
            shape[axis] = shape[axis].min(1);
        }
    }
    let mut host = Host::new(at, shape, T::from_f64(f64::NAN), fill);
    let mut strides = host.layout.strides();
    for (axis, &repeats) in repeats.iter().enumerate() {
        if repeats {
            strides[axis] = 0;
        }
    }
    host.layout = Layout::strided(full, strides, host.layout.offset());
    host
}

impl<T: Float> Inputs<T> {
    pub fn new(case: &Case) -> Self {
        let mut rng = StdRng::seed_from_u64(case.seed);
        let rng = &mut rng;
        let (heads, kv_heads) = (case.qo_heads(), case.kv_heads);
        let tensor = |seed, len: usize, spread| -> Vec<T> {
            let mut draw = normal(case.seed.wrapping_add(seed), spread);
            (0..len).map(|_| T::from_f64(draw())).collect()
        };
        let requests = case.requests().zip(0u64..).map(|([sq, sk], r)| Request {
            q: tensor(3 * r, sq * heads * case.head_dim, case.spread),
            k: tensor(3 * r + 1, sk * kv_heads * case.head_dim, 1.0),
            v: tensor(3 * r + 2, sk * kv_heads * case.head_dim_v, 1.0),
        });
        let requests: Vec<Request<T>> = requests.collect();
        let batch = requests.len();
        let lengths: Vec<[usize; 2]> = case.requests().collect();
        let [longest_q, longest_k] = longest(&lengths);
        // A table in device memory may have requests as long as it has room for.
        let longest_k = match &case.storage {
            Storage::Paged(pages) => (longest_k.div_ceil(pages.page_size) + 1) * pages.page_size,
            _ => longest_k,
        };
        let [rows_b, rows_s] = match case.storage {
            Storage::Dense { .. } => [batch, longest_q],
            _ => [1, lengths.iter().map(|[q, _]| q).sum()],
        };
        let mut flat = Arrangement::plain(4);
        flat.offset = rng.random_range(0..3);
        let options = &case.options;
        let sinks = options.sinks.map(|sinks| {
            let mut draw = normal(rng.random(), 2.0);
            let mut pick = StdRng::seed_from_u64(rng.random());
            Host::new(&flat, [heads], f32::NAN, || {
                match (sinks, pick.random_range(0..4)) {
                    (Sinks::Extreme, 0) => f64::NEG_INFINITY,
                    (Sinks::Extreme, 1) => 9000.0,
                    _ => draw(),
                }
            })
        });
        let slopes = options.alibi.map(|shared| {
            let draw = normal(rng.random(), 0.3);
            repeating(&flat, [batch, heads], &[shared], draw)
        });
        let prefix_lens = (case.op.mask == Mask::PrefixLm).then(|| {
            let draw = |_| rng.random_range(-1..longest_k as i32 + 9);
            (0..batch).map(draw).collect()
        });
        let seed = rng.random();
        let bias = options.bias.as_ref().map(|drawn| {
            // Past a request's last key nothing is read.
            let shape = [rows_b, heads, rows_s, longest_k + seed as usize % 3];
            HostBias::new(drawn, shape, seed)
        });
        let bits = options.bits.as_ref().map(|drawn| {
            let bytes = longest_k.div_ceil(8) + rng.random_range(0..2);
            let mut pick = StdRng::seed_from_u64(rng.random());
            let byte = || {
                (0..8)
                    .map(|i| u8::from(pick.random_bool(drawn.seen)) << i)
                    .sum()
            };
            Host::of(&drawn.at, [rows_b, rows_s, bytes], 0xff, byte)
        });
        let blocks = options.blocks.as_ref().map(|drawn| {
            let count = |len: usize, block: usize| len.div_ceil(block) + 1;
            let (batch, heads) = match drawn.shared {
                [b, h] => (if b { 1 } else { batch }, if h { 1 } else { kv_heads }),
            };
            let query_blocks = count(longest_q, drawn.block_q);
            let key_blocks = count(longest_k, drawn.block_k);
            let pairs = batch * heads * query_blocks * key_blocks;
            Blocks {
                drawn: drawn.clone(),
                batch,
                heads,
                query_blocks,
                key_blocks,
                seen: (0..pairs).map(|_| rng.random_bool(drawn.seen)).collect(),
            }
        });
        Self {
            requests,
            sinks,
            slopes,
            bias,
            prefix_lens,
            bits,
            blocks,
        }
    }
}

impl<T: Float> Inputs<T> {
    /// One request. Of options only sinks.
    pub fn only(&self, request: usize) -> Self {
        self.with(vec![self.requests[request].clone()])
    }

    /// The requests in reverse, then the last of those drawn for `case`. Of options only sinks.
    pub fn reversed_with(&self, case: &Case) -> Self {
        let mut requests: Vec<Request<T>> = self.requests.iter().rev().cloned().collect();
        requests.extend(Self::new(case).requests.pop());
        self.with(requests)
    }

    fn with(&self, requests: Vec<Request<T>>) -> Self {
        Self {
            requests,
            sinks: self.sinks.clone(),
            slopes: None,
            bias: None,
            prefix_lens: None,
            bits: None,
            blocks: None,
        }
    }
}

impl HostBias {
    fn new(drawn: &DrawnBias, shape: [usize; 4], seed: u64) -> Self {
        let mut draw = normal(seed, 2.0);
        let mut pick = StdRng::seed_from_u64(seed);
        let fill = || match pick.random_bool(drawn.hidden) {
            true => f64::NEG_INFINITY,
            false => draw(),
        };
        match drawn.dtype {
            DType::F16 => HostBias::F16(repeating(&drawn.at, shape, &drawn.repeats, fill)),
            DType::BF16 => HostBias::BF16(repeating(&drawn.at, shape, &drawn.repeats, fill)),
            _ => HostBias::F32(repeating(&drawn.at, shape, &drawn.repeats, fill)),
        }
    }
}

pub fn longest(lengths: &[[usize; 2]]) -> [usize; 2] {
    [0, 1].map(|i| lengths.iter().map(|l| l[i]).max().unwrap_or(0))
}

/// The reference for every request: o and lse as [`Output`] has them.
pub fn expected<P: Precision, T: Float>(
    case: &Case,
    inputs: &Inputs<T>,
    round: impl Fn(f64) -> T,
) -> [Vec<f64>; 2] {
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    let mut row = 0;
    for (r, ([sq, sk], request)) in case.requests().zip(&inputs.requests).enumerate() {
        let dense = matches!(case.storage, Storage::Dense { .. });
        // Where the options have query i of this request.
        let place = |i: usize| if dense { [r, i] } else { [0, row + i] };
        let round = |data: &[T]| -> Vec<T> { data.iter().map(|x| round(x.to_f64())).collect() };
        let (q, k, v) = (round(&request.q), round(&request.k), round(&request.v));
        let view = |data, len, heads, dim| {
            HostTensor::new(data, Layout::contiguous([1, len, heads, dim])).expect("in bounds")
        };
        let bias = |[_, head, i, j]: [usize; 4]| {
            let [b, i] = place(i);
            inputs
                .bias
                .as_ref()
                .map_or(0.0, |bias| bias.at([b, head, i, j]))
        };
        let sees = |[_, head, i, j]: [usize; 4]| {
            let [b, row] = place(i);
            let bit = inputs.bits.as_ref().is_none_or(|bits| {
                bits.data[bits.layout.position([b, row, j / 8])] >> (j % 8) & 1 == 1
            });
            let kv_head = head / case.group_size;
            bit && inputs
                .blocks
                .as_ref()
                .is_none_or(|blocks| blocks.sees(r, kv_head, i, j))
        };
        let prefix_lens = inputs.prefix_lens.as_ref();
        let prefix_lens: Vec<usize> = prefix_lens
            .map(|lens| vec![(lens[r].max(0) as usize).min(sk)])
            .unwrap_or_default();
        let slopes = inputs.slopes.as_ref().map(|slopes| {
            let heads: Vec<f32> = (0..case.qo_heads())
                .map(|head| slopes.data[slopes.layout.position([r, head])])
                .collect();
            heads
        });
        let options = AttentionOptions {
            sinks: inputs.sinks.as_ref().map(Host::tensor),
            alibi_slopes: slopes.as_ref().map(|slopes| {
                HostTensor::new(slopes, Layout::contiguous([1, case.qo_heads()]))
                    .expect("in bounds")
            }),
            bias: inputs.bias.as_ref().map(|_| &bias as _),
            prefix_lens: &prefix_lens,
            sees: Some(&sees),
        };
        let attention = reference::prefill_with::<P, T>(
            &case.op,
            &view(&q, sq, case.qo_heads(), case.head_dim),
            &view(&k, sk, case.kv_heads, case.head_dim),
            &view(&v, sk, case.kv_heads, case.head_dim_v),
            &options,
        );
        o.extend_from_slice(attention.o.data());
        lse.extend_from_slice(attention.lse.data());
        row += sq;
    }
    [o, lse]
}

/// Options on the device, for as long as a call.
struct Uploaded {
    sinks: Option<CudaSlice<f32>>,
    slopes: Option<CudaSlice<f32>>,
    bias: [Option<CudaSlice<f16>>; 1],
    bias_bf16: Option<CudaSlice<bf16>>,
    bias_f32: Option<CudaSlice<f32>>,
    prefix_lens: Option<CudaSlice<i32>>,
    bits: Option<CudaSlice<u8>>,
    blocks: Option<BlockMask>,
}

impl Uploaded {
    fn new<T>(inputs: &Inputs<T>) -> Self {
        let mut this = Self {
            sinks: inputs.sinks.as_ref().map(Host::upload),
            slopes: inputs.slopes.as_ref().map(Host::upload),
            bias: [None],
            bias_bf16: None,
            bias_f32: None,
            prefix_lens: inputs
                .prefix_lens
                .as_ref()
                .map(|lens| gpu().stream.clone_htod(lens).expect("upload")),
            bits: inputs.bits.as_ref().map(|bits| bits.upload_or(0)),
            blocks: inputs.blocks.as_ref().map(Blocks::upload),
        };
        match &inputs.bias {
            Some(HostBias::F16(bias)) => this.bias = [Some(bias.upload())],
            Some(HostBias::BF16(bias)) => this.bias_bf16 = Some(bias.upload()),
            Some(HostBias::F32(bias)) => this.bias_f32 = Some(bias.upload()),
            None => {}
        }
        this
    }

    fn options<'a, T>(&'a self, inputs: &Inputs<T>) -> PrefillOptions<'a> {
        let bias = match (&inputs.bias, &self.bias[0], &self.bias_bf16, &self.bias_f32) {
            (Some(HostBias::F16(host)), Some(data), ..) => Some(Bias::F16(host.view(data))),
            (Some(HostBias::BF16(host)), _, Some(data), _) => Some(Bias::BF16(host.view(data))),
            (Some(HostBias::F32(host)), .., Some(data)) => Some(Bias::F32(host.view(data))),
            _ => None,
        };
        let sinks = inputs.sinks.as_ref().zip(self.sinks.as_ref());
        let slopes = inputs.slopes.as_ref().zip(self.slopes.as_ref());
        let bits = inputs.bits.as_ref().zip(self.bits.as_ref());
        PrefillOptions {
            sinks: sinks.map(|(host, data)| host.view(data)),
            alibi_slopes: slopes.map(|(host, data)| host.view(data)),
            bias,
            prefix_lens: self
                .prefix_lens
                .as_ref()
                .map(|data| TensorView::contiguous(data.as_view(), [data.len()]).expect("a view")),
            bit_mask: bits.map(|(host, data)| host.view(data)),
            block_mask: self.blocks.as_ref(),
        }
    }
}

/// Elements of all requests in one order.
fn packed<'a, T: Copy>(
    inputs: &'a Inputs<T>,
    part: impl Fn(&'a Request<T>) -> &'a Vec<T> + 'a,
) -> impl FnMut() -> T + 'a {
    let mut all = inputs.requests.iter().flat_map(part).copied();
    move || all.next().expect("as many elements as the tensor has")
}

/// Launches a call.
pub fn run<T: Float>(case: &Case, inputs: &Inputs<T>) -> Result<Output<T>, TestCaseError> {
    match &case.storage {
        Storage::Dense { in_place } => run_dense(case, inputs, *in_place),
        Storage::Packed => run_packed(case, inputs, None),
        Storage::Paged(pages) => run_packed(case, inputs, Some(pages)),
    }
}

/// What lies between the elements must never be read into a result.
fn nan<T: Float>() -> T {
    T::from_f64(f64::NAN)
}

fn canary<T: Float>() -> T {
    T::from_f64(-77.0)
}

fn run_dense<T: Float>(
    case: &Case,
    inputs: &Inputs<T>,
    in_place: bool,
) -> Result<Output<T>, TestCaseError> {
    let [q_at, k_at, v_at, o_at] = &case.arrangements;
    let (batch, [sq, sk]) = (inputs.requests.len(), case.lengths[0]);
    let (heads, kv_heads) = (case.qo_heads(), case.kv_heads);
    let shape = |len, heads, dim| [batch, len, heads, dim];
    let q = Host::of(
        q_at,
        shape(sq, heads, case.head_dim),
        nan(),
        packed(inputs, |r| &r.q),
    );
    let k = Host::of(
        k_at,
        shape(sk, kv_heads, case.head_dim),
        nan(),
        packed(inputs, |r| &r.k),
    );
    let v = Host::of(
        v_at,
        shape(sk, kv_heads, case.head_dim_v),
        nan(),
        packed(inputs, |r| &r.v),
    );
    let o = Host::new(
        o_at,
        shape(sq, heads, case.head_dim_v),
        canary::<T>(),
        || 55.0,
    );
    let lse = lse_host(case, [batch, heads, sq]);
    let (mut q_data, k_data, v_data) = (q.upload(), k.upload(), v.upload());
    let mut o_data = o.upload();
    let mut lse_data = lse.as_ref().map(Host::upload);
    let uploaded = Uploaded::new(inputs);
    let options = uploaded.options(inputs);
    let lse_view = lse.as_ref().zip(lse_data.as_mut());
    let lse_view = lse_view.map(|(lse, data)| lse.view_mut(data));
    let (k, v) = (k.view(&k_data), v.view(&v_data));
    let (kernels, stream) = (&gpu().kernels, &gpu().stream);
    let result = if in_place {
        let args = PrefillInPlaceArgs {
            qo: q.view_mut(&mut q_data),
            k,
            v,
            lse: lse_view,
            options,
        };
        kernels.prefill_in_place(stream, &case.op, args)
    } else {
        let args = PrefillArgs {
            q: q.view(&q_data),
            k,
            v,
            o: o.view_mut(&mut o_data),
            lse: lse_view,
            options,
        };
        kernels.prefill(stream, &case.op, args)
    };
    result.map_err(fail)?;
    let lse = lse.as_ref().zip(lse_data.as_ref());
    let lse = lse.map(|(lse, data)| lse.download(data)).transpose()?;
    let o = if in_place {
        q.download(&q_data)?
    } else {
        o.download(&o_data)?
    };
    Ok(Output { o, lse })
}

fn lse_host<const R: usize>(case: &Case, shape: [usize; R]) -> Option<Host<f32, R>> {
    let at = case.lse.as_ref()?;
    Some(Host::new(at, shape, -77.0, || 55.0))
}

/// Packed queries over packed keys or pages.
fn run_packed<T: Float>(
    case: &Case,
    inputs: &Inputs<T>,
    pages: Option<&Pages>,
) -> Result<Output<T>, TestCaseError> {
    let [q_at, k_at, v_at, o_at] = &case.arrangements;
    let lengths: Vec<[usize; 2]> = case.requests().collect();
    let [q_lens, k_lens] = [0, 1].map(|i| lengths.iter().map(|l| l[i]).collect::<Vec<usize>>());
    let [sq, sk] = [&q_lens, &k_lens].map(|lens| lens.iter().sum::<usize>());
    let (heads, kv_heads) = (case.qo_heads(), case.kv_heads);
    let q = Host::of(
        q_at,
        [sq, heads, case.head_dim],
        nan(),
        packed(inputs, |r| &r.q),
    );
    let o = Host::new(o_at, [sq, heads, case.head_dim_v], canary::<T>(), || 55.0);
    let lse = lse_host(case, [heads, sq]);
    let q_data = q.upload();
    let mut o_data = o.upload();
    let mut lse_data = lse.as_ref().map(Host::upload);
    let uploaded = Uploaded::new(inputs);
    let options = uploaded.options(inputs);
    let lse_view = lse.as_ref().zip(lse_data.as_mut());
    let lse_view = lse_view.map(|(lse, data)| lse.view_mut(data));
    let (kernels, stream) = (&gpu().kernels, &gpu().stream);
    let cu_seqlens_q = CuSeqlens::from_lengths(stream, &q_lens).map_err(fail)?;
    if let Some(pages) = pages {
        let cache = Cache::new(case, inputs, pages, &k_lens);
        let (k_data, v_data) = (cache.k.upload(), cache.v.upload());
        let mut error = stream.alloc_zeros::<i32>(1).map_err(fail)?;
        let table = cache.upload(pages)?;
        let checked = matches!(pages.origin, Origin::Device);
        let args = PrefillPagedArgs {
            q: q.view(&q_data),
            k_cache: cache.k.view(&k_data),
            v_cache: cache.v.view(&v_data),
            layout: pages.layout,
            o: o.view_mut(&mut o_data),
            lse: lse_view,
            cu_seqlens_q: &cu_seqlens_q,
            pages: &table,
            page_error: checked
                .then(|| TensorViewMut::contiguous(error.as_view_mut(), [1]).expect("a view")),
            options,
        };
        kernels
            .prefill_paged(stream, &case.op, args)
            .map_err(fail)?;
        let error = stream.clone_dtoh(&error).map_err(fail)?;
        prop_assert_eq!(error, [0], "every page exists");
    } else {
        let k = Host::of(
            k_at,
            [sk, kv_heads, case.head_dim],
            nan(),
            packed(inputs, |r| &r.k),
        );
        let v = Host::of(
            v_at,
            [sk, kv_heads, case.head_dim_v],
            nan(),
            packed(inputs, |r| &r.v),
        );
        let (k_data, v_data) = (k.upload(), v.upload());
        let cu_seqlens_k = CuSeqlens::from_lengths(stream, &k_lens).map_err(fail)?;
        let args = PrefillVarlenArgs {
            q: q.view(&q_data),
            k: k.view(&k_data),
            v: v.view(&v_data),
            o: o.view_mut(&mut o_data),
            lse: lse_view,
            cu_seqlens_q: &cu_seqlens_q,
            cu_seqlens_k: &cu_seqlens_k,
            options,
        };
        kernels
            .prefill_varlen(stream, &case.op, args)
            .map_err(fail)?;
    }
    let lse = lse.as_ref().zip(lse_data.as_ref());
    let lse = lse.map(|(lse, data)| lse.download(data)).transpose()?;
    // Head by head over all requests, where the reference has them request by request.
    let lse = lse.map(|lse| {
        let mut rows = Vec::new();
        let mut start = 0;
        for &len in &q_lens {
            for head in 0..heads {
                rows.extend_from_slice(&lse[head * sq + start..][..len]);
            }
            start += len;
        }
        rows
    });
    Ok(Output {
        o: o.download(&o_data)?,
        lse,
    })
}

/// Pages in any order, with NaN in those that no request has and past the end of each request.
struct Cache<T> {
    k: Host<T, 4>,
    v: Host<T, 4>,
    table: Vec<i32>,
    max_pages: usize,
    k_lens: Vec<usize>,
}

impl<T: Float> Cache<T> {
    fn new(case: &Case, inputs: &Inputs<T>, pages: &Pages, k_lens: &[usize]) -> Self {
        let mut rng = StdRng::seed_from_u64(case.seed ^ 5);
        let counts: Vec<usize> = k_lens
            .iter()
            .map(|len| len.div_ceil(pages.page_size))
            .collect();
        let num_pages = counts.iter().sum::<usize>() + pages.spare;
        let mut free: Vec<i32> = (0..num_pages as i32).collect();
        free.shuffle(&mut rng);
        let max_pages = counts.iter().copied().max().unwrap_or(0) + rng.random_range(0..2);
        let unused = [-1, i32::MIN, i32::MAX, num_pages as i32];
        let mut table = Vec::new();
        for &count in &counts {
            table.extend(free.drain(..count));
            table.extend((count..max_pages).map(|i| unused[i % 4]));
        }
        let host = |at: &Arrangement, dim: usize| {
            let shape = match pages.layout {
                PageLayout::Nhd => [num_pages, pages.page_size, case.kv_heads, dim],
                PageLayout::Hnd => [num_pages, case.kv_heads, pages.page_size, dim],
            };
            Host::<T, 4>::new(at, shape, nan(), || f64::NAN)
        };
        let mut k = host(&case.arrangements[1], case.head_dim);
        let mut v = host(&case.arrangements[2], case.head_dim_v);
        for (r, (&len, request)) in k_lens.iter().zip(&inputs.requests).enumerate() {
            for j in 0..len {
                let page = table[r * max_pages + j / pages.page_size] as usize;
                for h in 0..case.kv_heads {
                    let index = |d| match pages.layout {
                        PageLayout::Nhd => [page, j % pages.page_size, h, d],
                        PageLayout::Hnd => [page, h, j % pages.page_size, d],
                    };
                    let row = j * case.kv_heads + h;
                    for d in 0..case.head_dim {
                        let position = k.layout.position(index(d));
                        k.data[position] = request.k[row * case.head_dim + d];
                    }
                    for d in 0..case.head_dim_v {
                        let position = v.layout.position(index(d));
                        v.data[position] = request.v[row * case.head_dim_v + d];
                    }
                }
            }
        }
        Self {
            k,
            v,
            table,
            max_pages,
            k_lens: k_lens.to_vec(),
        }
    }

    #[allow(unsafe_code)]
    fn upload(&self, pages: &Pages) -> Result<PageTable, TestCaseError> {
        let stream = &gpu().stream;
        let host = || PageTable::new(stream, pages.page_size, &self.table, &self.k_lens);
        let lens: Vec<i32> = self.k_lens.iter().map(|&len| len as i32).collect();
        let upload = |numbers: &[i32]| match numbers {
            [] => stream.alloc_zeros(1),
            _ => stream.clone_htod(numbers),
        };
        let device = || {
            Ok::<_, TestCaseError>((
                upload(&self.table).map_err(fail)?,
                upload(&lens).map_err(fail)?,
            ))
        };
        match pages.origin {
            Origin::Host => host(),
            Origin::Device => {
                let (table, lens) = device()?;
                PageTable::from_device(pages.page_size, self.max_pages, table, lens)
            }
            Origin::Trusted => {
                let (table, lens) = device()?;
                // SAFETY: nobody writes to the copies of what PageTable::new accepts for this cache.
                host().map_err(fail)?;
                unsafe {
                    PageTable::from_device_unchecked(pages.page_size, self.max_pages, table, lens)
                }
            }
        }
        .map_err(fail)
    }
}

/// Runs a call twice, and holds the bits of both to each other and the values to the rule.
pub fn passes<T: Float>(case: &Case) -> Result<(), TestCaseError> {
    let inputs = Inputs::<T>::new(case);
    let got = run(case, &inputs)?;
    let again = run(case, &inputs)?;
    crate::common::assert_same_bits(&got.o, &again.o)?;
    let lse = |output: &Output<T>| output.lse.clone().unwrap_or_default();
    crate::common::assert_same_bits(&lse(&got), &lse(&again))?;

    let exact = expected::<Exact, T>(case, &inputs, T::from_f64);
    // Operands of f32 are computed with in bf16.
    let low = match T::DTYPE {
        DType::F32 => {
            expected::<Rounded<bf16>, T>(case, &inputs, |x| T::from_f64(bf16::from_f64(x).to_f64()))
        }
        _ => expected::<Rounded<T>, T>(case, &inputs, T::from_f64),
    };
    let values: Vec<f64> = got.o.iter().map(|x| x.to_f64()).collect();
    reference::check(&values, &exact[0], &low[0]).map_err(|e| fail(format!("o: {e}")))?;
    if let Some(lse) = got.lse {
        let values: Vec<f64> = lse.iter().map(|&x| f64::from(x)).collect();
        reference::check(&values, &exact[1], &low[1]).map_err(|e| fail(format!("lse: {e}")))?;
    }
    Ok(())
}

/// [`passes`] for the case's element type.
pub fn case_passes(case: &Case) -> Result<(), TestCaseError> {
    match case.dtype {
        DType::F16 => passes::<f16>(case),
        DType::BF16 => passes::<bf16>(case),
        _ => passes::<f32>(case),
    }
}
