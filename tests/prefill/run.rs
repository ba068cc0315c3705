//! Runs a drawn call on the device.

use crate::cache::Cache;
use crate::case::{Case, Origin, Pages, Storage};
use crate::common::{Host, fail, gpu};
use crate::inputs::{Blocks, HostBias, Inputs, Request};
use cudarc::driver::CudaSlice;
use ferroflash::{
    Bias, BlockMask, CuSeqlens, Float, PrefillArgs, PrefillInPlaceArgs, PrefillOptions,
    PrefillPagedArgs, PrefillVarlenArgs, TensorView, TensorViewMut,
};
use half::{bf16, f16};
use proptest::prelude::*;

/// What a call gives: `[head of q][query]` of every request, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Output<T> {
    /// Request by request, `[seqlen_q, num_qo_heads, head_dim_v]`.
    pub o: Vec<T>,
    /// Request by request, `[num_qo_heads, seqlen_q]`.
    pub lse: Option<Vec<f32>>,
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
