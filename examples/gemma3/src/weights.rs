//! What the GGUF file holds.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{QMatMul, QTensor};

/// The file may leave these out: then they are what Gemma 3 was trained with.
const WINDOW_PERIOD: u32 = 6;
const LOCAL_ROPE_BASE: f32 = 10_000.0;
const GLOBAL_ROPE_BASE: f32 = 1_000_000.0;

/// The shape of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Number of layers.
    pub layers: usize,
    /// Elements of the residual stream.
    pub width: usize,
    /// Elements between the two halves of a feed-forward block.
    pub hidden: usize,
    /// Query heads.
    pub num_qo_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Epsilon of every norm.
    pub eps: f32,
    /// Keys that a query of a local layer sees, its own among them.
    pub window: u32,
    /// Every so many layers one is global, the others are local.
    pub window_period: usize,
    /// RoPE base of global layers.
    pub global_rope_base: f64,
    /// RoPE base of local layers.
    pub local_rope_base: f64,
    /// Positions the model was trained on.
    pub context: usize,
}

impl Config {
    fn read(content: &Content) -> Result<Self> {
        let architecture = content
            .metadata
            .get("general.architecture")
            .context("the file does not say what model it holds (general.architecture)")?
            .to_string()?;
        ensure!(
            architecture == "gemma3",
            "the file holds a model of the kind {architecture}, not gemma3"
        );
        let config = Self {
            layers: count(content, "block_count")?,
            width: count(content, "embedding_length")?,
            hidden: count(content, "feed_forward_length")?,
            num_qo_heads: count(content, "attention.head_count")?,
            num_kv_heads: count(content, "attention.head_count_kv")?,
            head_dim: count(content, "attention.key_length")?,
            eps: required(content, "attention.layer_norm_rms_epsilon", Value::to_f32)?,
            window: required(content, "attention.sliding_window", Value::to_u32)?,
            window_period: optional(content, "attention.sliding_window_pattern", Value::to_u32)?
                .unwrap_or(WINDOW_PERIOD) as usize,
            global_rope_base: optional(content, "rope.freq_base", Value::to_f32)?
                .unwrap_or(GLOBAL_ROPE_BASE)
                .into(),
            local_rope_base: optional(content, "rope.freq_base_swa", Value::to_f32)?
                .unwrap_or(LOCAL_ROPE_BASE)
                .into(),
            context: count(content, "context_length")?,
        };
        ensure!(
            config.window > 0 && config.window_period > 0,
            "a sliding window of {} keys in {} of every {} layers makes no sense",
            config.window,
            config.window_period.saturating_sub(1),
            config.window_period
        );
        Ok(config)
    }

    /// Whether queries of this layer see a window of the latest keys only.
    pub fn is_local(&self, layer: usize) -> bool {
        !(layer + 1).is_multiple_of(self.window_period)
    }
}

fn key(name: &str) -> String {
    format!("gemma3.{name}")
}

fn optional<T>(
    content: &Content,
    name: &str,
    read: fn(&Value) -> candle_core::Result<T>,
) -> Result<Option<T>> {
    let key = key(name);
    content
        .metadata
        .get(&key)
        .map(|value| read(value).with_context(|| format!("{key} of the model file")))
        .transpose()
}

fn required<T>(
    content: &Content,
    name: &str,
    read: fn(&Value) -> candle_core::Result<T>,
) -> Result<T> {
    optional(content, name, read)?
        .with_context(|| format!("the model file lacks the entry {}", key(name)))
}

fn count(content: &Content, name: &str) -> Result<usize> {
    let count = required(content, name, Value::to_u32)?;
    ensure!(count > 0, "{} of the model file is 0", key(name));
    Ok(count as usize)
}

/// One layer. Matrices stay quantised; norm weights are f32. GGUF stores Gemma's norm weights with the 1
/// already added.
pub struct Layer {
    pub attention_norm: Vec<f32>,
    pub query: QMatMul,
    pub key: QMatMul,
    pub value: QMatMul,
    pub query_norm: Vec<f32>,
    pub key_norm: Vec<f32>,
    pub attention_output: QMatMul,
    pub post_attention_norm: Vec<f32>,
    pub feed_forward_norm: Vec<f32>,
    pub gate: QMatMul,
    pub up: QMatMul,
    pub down: QMatMul,
    pub post_feed_forward_norm: Vec<f32>,
}

/// The whole model.
pub struct Weights {
    pub config: Config,
    /// `[vocabulary, width]`.
    pub embedding: Arc<QTensor>,
    pub layers: Vec<Layer>,
    pub output_norm: Vec<f32>,
    /// The embedding again, unless the file has a matrix of its own.
    pub output: QMatMul,
}

impl Weights {
    /// Reads a GGUF file.
    pub fn read(path: &Path) -> Result<Self> {
        let (content, file) = open(path)?;
        let config = Config::read(&content)?;
        let mut source = Source { content, file };
        let (width, hidden) = (config.width, config.hidden);
        let (q_width, kv_width) = (
            config.num_qo_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
        );
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            layers.push(Layer {
                attention_norm: source.vector(&name("attn_norm"), width)?,
                query: source.matrix(&name("attn_q"), [q_width, width])?,
                key: source.matrix(&name("attn_k"), [kv_width, width])?,
                value: source.matrix(&name("attn_v"), [kv_width, width])?,
                query_norm: source.vector(&name("attn_q_norm"), config.head_dim)?,
                key_norm: source.vector(&name("attn_k_norm"), config.head_dim)?,
                attention_output: source.matrix(&name("attn_output"), [width, q_width])?,
                post_attention_norm: source.vector(&name("post_attention_norm"), width)?,
                feed_forward_norm: source.vector(&name("ffn_norm"), width)?,
                gate: source.matrix(&name("ffn_gate"), [hidden, width])?,
                up: source.matrix(&name("ffn_up"), [hidden, width])?,
                down: source.matrix(&name("ffn_down"), [width, hidden])?,
                post_feed_forward_norm: source.vector(&name("post_ffw_norm"), width)?,
            });
        }
        let embedding = Arc::new(source.tensor("token_embd.weight")?);
        let (vocabulary, found) = embedding.shape().dims2()?;
        ensure!(
            found == width,
            "the embedding is {found} wide, the model {width}"
        );
        let output = if source.content.tensor_infos.contains_key("output.weight") {
            source.matrix("output.weight", [vocabulary, width])?
        } else {
            QMatMul::from_arc(embedding.clone())?
        };
        Ok(Self {
            embedding,
            layers,
            output_norm: source.vector("output_norm.weight", width)?,
            output,
            config,
        })
    }
}

/// Opens a GGUF file and reads its directory.
pub fn open(path: &Path) -> Result<(Content, BufReader<File>)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut file = BufReader::new(file);
    let content = Content::read(&mut file)
        .with_context(|| format!("{} is not a readable GGUF file", path.display()))?;
    Ok((content, file))
}

struct Source {
    content: Content,
    file: BufReader<File>,
}

impl Source {
    fn tensor(&mut self, name: &str) -> Result<QTensor> {
        self.content
            .tensor(&mut self.file, name, &Device::Cpu)
            .with_context(|| format!("tensor {name} of the model file"))
    }

    /// `[out, in]`, as it multiplies rows of `in` elements.
    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<QMatMul> {
        let tensor = self.tensor(name)?;
        ensure!(
            tensor.shape().dims() == shape,
            "{name} has the shape {:?}, the model's metadata say {shape:?}",
            tensor.shape()
        );
        Ok(QMatMul::from_qtensor(tensor)?)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        ensure!(
            tensor.shape().dims() == [len],
            "{name} has the shape {:?}, the model's metadata say [{len}]",
            tensor.shape()
        );
        Ok(tensor.dequantize(&Device::Cpu)?.to_vec1()?)
    }
}
