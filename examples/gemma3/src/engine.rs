//! The model: embedding, layers, logits.

use anyhow::{Context, Result, ensure};
use candle_core::quantized::QMatMul;
use candle_core::{D, Device, Module, Tensor};
use cudarc::driver::CudaSlice;
use ferroflash::Mask;

use crate::device::{Attention, Gpu, Heads, KvCache, Launches, Projections};
use crate::weights::{Config, Layer, Weights};

/// Where implementations of Gemma 3 part ways; the default is the model as it was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub activation: Activation,
    /// Whether local layers see a window of keys, or all.
    pub windows: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            activation: Activation::GeluTanh,
            windows: true,
        }
    }
}

/// The function on the gate of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    GeluTanh,
    Silu,
}

/// What one layer keeps on the device.
struct Resident {
    attention_norm: CudaSlice<f32>,
    attention: Attention,
    post_attention_norm: CudaSlice<f32>,
    feed_forward_norm: CudaSlice<f32>,
    post_feed_forward_norm: CudaSlice<f32>,
    cache: KvCache,
}

/// A model with the tokens it has read.
pub struct Engine {
    weights: Weights,
    gpu: Gpu,
    resident: Vec<Resident>,
    output_norm: CudaSlice<f32>,
    len: usize,
    capacity: usize,
    /// Applies to tokens read from now on.
    pub dialect: Dialect,
}

impl Engine {
    /// Gets ready to read up to `capacity` tokens.
    pub fn new(weights: Weights, capacity: usize) -> Result<Self> {
        let config = &weights.config;
        ensure!(
            capacity <= config.context,
            "{capacity} tokens are asked for, prompt included, and the model has a context of {}",
            config.context
        );
        let heads = Heads {
            num_qo: config.num_qo_heads,
            num_kv: config.num_kv_heads,
            dim: config.head_dim,
        };
        let gpu = Gpu::new(heads, config.eps)?;
        let resident = weights
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| Resident::new(&gpu, config, index, layer, capacity))
            .collect::<Result<_>>()?;
        let output_norm = gpu.upload(&weights.output_norm)?;
        Ok(Self {
            weights,
            gpu,
            resident,
            output_norm,
            len: 0,
            capacity,
            dialect: Dialect::default(),
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.weights.config.layers
    }

    /// How often each kernel family was launched.
    pub fn launches(&self) -> Launches {
        self.gpu.launches()
    }

    /// Forgets all tokens but the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Reads `tokens` and gives the state `[tokens, width]` from which [`Self::logits`] tells what follows
    /// each of them. `after_layer` is called as layers are done.
    ///
    /// The residual stream is f32 on the device. What leaves a block is normalised, added to it and normalised again for
    /// the block that follows, in one launch.
    pub fn forward(&mut self, tokens: &[u32], mut after_layer: impl FnMut()) -> Result<Tensor> {
        ensure!(
            !tokens.is_empty() && self.len + tokens.len() <= self.capacity,
            "{} tokens after {} do not fit the {} that there is room for",
            tokens.len(),
            self.len,
            self.capacity
        );
        let width = self.weights.config.width as f64;
        let positions = self.gpu.positions(self.len, tokens.len())?;
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let x = (self.weights.embedding.embedding(&ids)? * width.sqrt())?;
        let mut x = self.gpu.upload(&x.flatten_all()?.to_vec1()?)?;
        let rows = |h: Vec<f32>| Tensor::from_vec(h, (tokens.len(), ()), &Device::Cpu);
        let first = self.resident.first().map(|layer| &layer.attention_norm);
        let mut h = rows(self.gpu.rms_norm(&x, first.unwrap_or(&self.output_norm))?)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let mask = mask(&self.weights.config, self.dialect, index);
            let gpu = &mut self.gpu;
            let (resident, rest) = self.resident[index..]
                .split_first_mut()
                .context("a layer without its weights")?;
            let projections = Projections {
                q: product(&layer.query, &h)?,
                k: product(&layer.key, &h)?,
                v: product(&layer.value, &h)?,
            };
            h = rows(gpu.attend(
                &resident.attention,
                mask,
                &mut resident.cache,
                self.len,
                &positions,
                &projections,
            )?)?;
            h = layer.attention_output.forward(&h)?;
            let (post, next) = (&resident.post_attention_norm, &resident.feed_forward_norm);
            h = rows(gpu.add_norm(&mut x, &flat(&h)?, post, next)?)?;

            h = feed_forward(layer, &h, self.dialect.activation)?;
            let next = rest.first().map(|resident| &resident.attention_norm);
            let (post, next) = (
                &resident.post_feed_forward_norm,
                next.unwrap_or(&self.output_norm),
            );
            h = rows(gpu.add_norm(&mut x, &flat(&h)?, post, next)?)?;
            after_layer();
        }
        self.len += tokens.len();
        Ok(h)
    }

    /// The logits `[tokens, vocabulary]` of states.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        Ok(self.weights.output.forward(states)?)
    }

    /// The logits of the last state.
    pub fn last_logits(&self, states: &Tensor) -> Result<Vec<f32>> {
        let last = states.narrow(0, states.dim(0)? - 1, 1)?;
        Ok(self.logits(&last)?.squeeze(0)?.to_vec1()?)
    }
}

impl Resident {
    fn new(
        gpu: &Gpu,
        config: &Config,
        index: usize,
        layer: &Layer,
        capacity: usize,
    ) -> Result<Self> {
        let rope_base = if config.is_local(index) {
            config.local_rope_base
        } else {
            config.global_rope_base
        };
        Ok(Self {
            attention_norm: gpu.upload(&layer.attention_norm)?,
            attention: gpu.attention(&layer.query_norm, &layer.key_norm, rope_base)?,
            post_attention_norm: gpu.upload(&layer.post_attention_norm)?,
            feed_forward_norm: gpu.upload(&layer.feed_forward_norm)?,
            post_feed_forward_norm: gpu.upload(&layer.post_feed_forward_norm)?,
            cache: gpu.cache(capacity)?,
        })
    }
}

/// What queries of a layer see. Gemma counts a query's own key into the window; `left` does not.
fn mask(config: &Config, dialect: Dialect, layer: usize) -> Mask {
    if config.is_local(layer) && dialect.windows {
        Mask::Window {
            left: Some(config.window - 1),
            right: Some(0),
        }
    } else {
        Mask::Causal
    }
}

fn flat(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

fn product(matrix: &QMatMul, x: &Tensor) -> Result<Vec<f32>> {
    Ok(matrix.forward(x)?.flatten(0, D::Minus1)?.to_vec1()?)
}

fn feed_forward(layer: &Layer, x: &Tensor, activation: Activation) -> Result<Tensor> {
    let gate = layer.gate.forward(x)?;
    let gate = match activation {
        Activation::GeluTanh => gate.gelu()?,
        Activation::Silu => gate.silu()?,
    };
    let up = layer.up.forward(x)?;
    Ok(layer.down.forward(&(gate * up)?)?)
}
