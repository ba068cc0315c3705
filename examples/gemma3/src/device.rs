//! The device's side: norms, rotations and attention, by ferroflash.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use ferroflash::{
    Frequencies, InOut, Kernels, Mask, NormArgs, NormWeights, Positions, PostNorm, Prefill,
    PrefillArgs, PrefillOptions, QkNorm, RmsNorm, Rope, RopeArgs, TensorView, TensorViewMut,
    WeightForm,
};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// How often each kernel family was launched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    pub rms_norm: usize,
    pub rope: usize,
    pub attention: usize,
}

impl fmt::Display for Launches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rms_norm,
            rope,
            attention,
        } = self;
        write!(
            f,
            "{attention} attention, {rms_norm} RMSNorm, {rope} QK-norm + RoPE"
        )
    }
}

/// Queries, keys and values of some tokens, as the projections give them: `[tokens, heads, head_dim]`.
pub struct Projections {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

/// The constants of one layer's attention.
pub struct Attention {
    query_norm: CudaSlice<f32>,
    key_norm: CudaSlice<f32>,
    rope: Rope,
}

/// Keys and values of one layer, `[capacity, kv_heads, head_dim]` each, of which the first rows are filled.
pub struct KvCache {
    k: CudaSlice<f16>,
    v: CudaSlice<f16>,
}

/// Sizes that all layers share.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub num_qo: usize,
    pub num_kv: usize,
    pub dim: usize,
}

/// The device, its kernels and the stream everything runs on.
pub struct Gpu {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    norm: RmsNorm,
    heads: Heads,
    launches: Launches,
}

impl Gpu {
    /// Loads the kernels into the first device of the driver that was selected.
    pub fn new(heads: Heads, eps: f32) -> Result<Self> {
        let context = CudaContext::new(0).context("no CUDA context")?;
        let kernels = Kernels::load(&context)?;
        Ok(Self {
            stream: context.new_stream()?,
            kernels,
            norm: RmsNorm {
                eps,
                weight: WeightForm::Plain,
            },
            heads,
            launches: Launches::default(),
        })
    }

    /// What ran so far.
    pub fn launches(&self) -> Launches {
        self.launches
    }

    /// Copies a weight to the device.
    pub fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        Ok(self.stream.clone_htod(values)?)
    }

    /// Copies the constants of one layer's attention to the device.
    pub fn attention(&self, query: &[f32], key: &[f32], rope_base: f64) -> Result<Attention> {
        Ok(Attention {
            query_norm: self.upload(query)?,
            key_norm: self.upload(key)?,
            rope: Rope {
                frequencies: Frequencies::Base {
                    base: rope_base,
                    scale: 1.0,
                },
                norm: Some(QkNorm {
                    eps: self.norm.eps,
                    weight: self.norm.weight,
                }),
                ..Rope::default()
            },
        })
    }

    /// An empty cache with room for `capacity` tokens.
    pub fn cache(&self, capacity: usize) -> Result<KvCache> {
        let len = capacity * self.heads.num_kv * self.heads.dim;
        let alloc = || {
            self.stream
                .alloc_zeros(len)
                .with_context(|| format!("no device memory for a cache of {capacity} tokens"))
        };
        Ok(KvCache {
            k: alloc()?,
            v: alloc()?,
        })
    }

    /// The positions of the next forward pass.
    pub fn positions(&self, first: usize, count: usize) -> Result<Positions> {
        Ok(Positions::range(first, count)?)
    }

    /// RMSNorm of the rows of `x`, each as wide as `weight`.
    pub fn rms_norm(&mut self, x: &CudaSlice<f32>, weight: &CudaSlice<f32>) -> Result<Vec<f32>> {
        let shape = [x.len() / weight.len(), weight.len()];
        let mut out = self.stream.alloc_zeros::<f32>(x.len())?;
        self.kernels.rms_norm(
            &self.stream,
            &self.norm,
            TensorView::contiguous(x.as_view(), shape)?,
            TensorView::contiguous(weight.as_view(), [weight.len()])?,
            TensorViewMut::contiguous(out.as_view_mut(), shape)?,
        )?;
        self.launches.rms_norm += 1;
        Ok(self.stream.clone_dtoh(&out)?)
    }

    /// Adds the RMSNorm of the rows of `h`, with the weight `post`, to the residual stream, and returns the RMSNorm of
    /// that with the weight `next`.
    pub fn add_norm(
        &mut self,
        residual: &mut CudaSlice<f32>,
        h: &[f32],
        post: &CudaSlice<f32>,
        next: &CudaSlice<f32>,
    ) -> Result<Vec<f32>> {
        let width = next.len();
        let shape = [h.len() / width, width];
        let mut h = self.stream.clone_htod(h)?;
        let mut residual = TensorViewMut::contiguous(residual.as_view_mut(), shape)?;
        let mut rows = TensorViewMut::contiguous(h.as_view_mut(), shape)?;
        let post = TensorView::contiguous(post.as_view(), [width])?;
        let next = TensorView::contiguous(next.as_view(), [width])?;
        let args = NormArgs {
            residual: Some(InOut::InPlace(&mut residual)),
            post: Some(PostNorm {
                weight: Some(&post),
            }),
            ..NormArgs::new(InOut::InPlace(&mut rows), Some(&next))
        };
        self.kernels.norm(&self.stream, &self.norm.into(), args)?;
        self.launches.rms_norm += 1;
        Ok(self.stream.clone_dtoh(&h)?)
    }

    /// QK-norm, RoPE and attention of the tokens at `positions`, the first of which is at `start`: their
    /// keys and values join the `start` older ones of the cache. Gives `[tokens, heads, head_dim]`.
    ///
    /// Norm and rotation work in f32, so that queries and keys are rounded to f16 once, just before the
    /// tensor cores that need it. That they pass through the host on the way costs little here, where
    /// the host multiplies the matrices and has to see the result anyway.
    pub fn attend(
        &mut self,
        layer: &Attention,
        mask: Mask,
        cache: &mut KvCache,
        start: usize,
        positions: &Positions,
        projections: &Projections,
    ) -> Result<Vec<f32>> {
        let tokens = positions.len();
        let (q, k) = self.normalise_and_rotate(layer, positions, projections)?;
        let q = self.stream.clone_htod(&to_f16(&q))?;
        let row = self.heads.num_kv * self.heads.dim;
        let (old, new) = (start * row, (start + tokens) * row);
        let stream = &self.stream;
        stream.memcpy_htod(&to_f16(&k), &mut cache.k.slice_mut(old..new))?;
        stream.memcpy_htod(&to_f16(&projections.v), &mut cache.v.slice_mut(old..new))?;

        let Heads {
            num_qo,
            num_kv,
            dim,
        } = self.heads;
        let q_shape = [1, tokens, num_qo, dim];
        let kv_shape = [1, start + tokens, num_kv, dim];
        let mut o = stream.alloc_zeros::<f16>(q.len())?;
        let args = PrefillArgs {
            q: TensorView::contiguous(q.as_view(), q_shape)?,
            k: TensorView::contiguous(cache.k.slice(..new), kv_shape)?,
            v: TensorView::contiguous(cache.v.slice(..new), kv_shape)?,
            o: TensorViewMut::contiguous(o.as_view_mut(), q_shape)?,
            lse: None,
            options: PrefillOptions::default(),
        };
        let attention = Prefill {
            mask,
            ..Prefill::default()
        };
        self.kernels.prefill(stream, &attention, args)?;
        self.launches.attention += 1;
        Ok(stream.clone_dtoh(&o)?.to_f32_vec())
    }

    fn normalise_and_rotate(
        &mut self,
        layer: &Attention,
        positions: &Positions,
        projections: &Projections,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let tokens = positions.len();
        let Heads {
            num_qo,
            num_kv,
            dim,
        } = self.heads;
        let mut q = self.stream.clone_htod(&projections.q)?;
        let mut k = self.stream.clone_htod(&projections.k)?;
        let args = RopeArgs {
            weights: Some(NormWeights {
                q: Some(TensorView::contiguous(layer.query_norm.as_view(), [dim])?),
                k: Some(TensorView::contiguous(layer.key_norm.as_view(), [dim])?),
            }),
            ..RopeArgs::new(
                TensorViewMut::contiguous(q.as_view_mut(), [tokens, num_qo, dim])?,
                Some(TensorViewMut::contiguous(
                    k.as_view_mut(),
                    [tokens, num_kv, dim],
                )?),
                positions,
            )
        };
        self.kernels.rope(&self.stream, &layer.rope, args)?;
        self.launches.rope += 1;
        Ok((self.stream.clone_dtoh(&q)?, self.stream.clone_dtoh(&k)?))
    }
}

fn to_f16(values: &[f32]) -> Vec<f16> {
    values.iter().copied().map(f16::from_f32).collect()
}
