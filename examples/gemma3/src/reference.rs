//! candle-transformers' quantized_gemma3, as a reference.
//!
//! Version 0.11 differs from Gemma 3 as it was trained, which a comparison has to know:
//!
//! - Its feed-forward blocks use SiLU; Gemma 3 uses GELU.
//! - It gives the logits of the last token only.
//! - Reading one token it applies no sliding window.
//! - Reading several it lets a window reach one key too far back. That is mended here.
//! - Reading several when it has read others before is an error.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_gemma3::ModelWeights;

use crate::weights::open;

/// candle's model.
pub struct Reference(ModelWeights);

impl Reference {
    /// Reads a GGUF file.
    pub fn read(path: &Path) -> Result<Self> {
        let (mut content, mut file) = open(path)?;
        shorten_window(&mut content)?;
        let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)
            .context("candle cannot read the model")?;
        Ok(Self(model))
    }

    /// The logits after the last of `tokens`, which follow `start` others; without windows if there is one
    /// token only, and only then may `start` be positive. From 0 it begins anew.
    pub fn logits(&mut self, tokens: &[u32], start: usize) -> Result<Vec<f32>> {
        let ids = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.0.forward(&ids, start)?.flatten_all()?.to_vec1()?)
    }
}

/// Of a window of n keys, candle's queries see n before their own; so n - 1 are asked for.
fn shorten_window(content: &mut Content) -> Result<()> {
    let key = "gemma3.attention.sliding_window";
    let window = content
        .metadata
        .get_mut(key)
        .with_context(|| format!("the model file lacks the entry {key}"))?;
    *window = Value::U32(window.to_u32()?.saturating_sub(1));
    Ok(())
}

/// The largest difference of two logits; NaN anywhere counts as infinite.
pub fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    let apart = |(a, b): (&f32, &f32)| {
        let apart = (a - b).abs();
        if apart.is_nan() { f32::INFINITY } else { apart }
    };
    ours.iter().zip(theirs).map(apart).fold(0.0, f32::max)
}
