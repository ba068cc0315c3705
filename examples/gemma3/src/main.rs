//! Gemma 3 270M as an engine would run it with ferroflash: every RMSNorm, rotation and attention is a
//! kernel launch on the device, the quantised matrix products are candle-core's on the CPU.

mod check;
mod device;
mod engine;
mod fetch;
mod reference;
mod sampling;
#[cfg(test)]
mod tests;
mod text;
mod weights;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use engine::Engine;
use sampling::Sampler;
use text::{Decoder, Vocabulary};
use weights::Weights;

/// Continues a text with Gemma 3 270M; its attention, RMSNorm and RoPE run on ferroflash kernels.
///
/// FERROFLASH_DEVICE chooses what executes the kernels: gpu, cusim (the emulator), or auto, which takes a
/// GPU where there is one.
#[derive(Debug, Parser)]
#[command(name = "gemma3")]
struct Options {
    /// The text to continue
    #[arg(default_value = "The meaning of life is")]
    prompt: String,
    /// Tokens to add
    #[arg(long, value_name = "N", default_value_t = 48)]
    max_tokens: usize,
    /// 0 takes the likeliest token, more takes chances
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Seed of those chances
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// A GGUF file of a Gemma 3 text model, instead of the one that is fetched
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Compare with candle-transformers' quantized_gemma3 on the CPU instead
    #[arg(long, conflicts_with_all = ["prompt", "max_tokens", "temperature", "seed"])]
    check: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = if options.check && !check::products_are_f32() {
        check::restart_with_f32_products()
    } else {
        run(&options)
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: &Options) -> Result<ExitCode> {
    let mut sampler = Sampler::new(options.temperature, options.seed)?;
    let path = match &options.model {
        Some(path) => path.clone(),
        None => fetch::model()?,
    };
    let device = cusim::Device::from_env("FERROFLASH_DEVICE")?;
    println!("attention, RMSNorm, RoPE: ferroflash on {device}");
    let loading = fetch::spinner("reading the model");
    let weights = Weights::read(&path)?;
    let vocabulary = Vocabulary::read(&path)?;
    loading.finish_and_clear();
    if options.check {
        return check::run(&path, &vocabulary, weights);
    }
    println!("matrix products: candle-core on the CPU, weights quantised");
    let prompt = vocabulary.encode(&options.prompt)?;
    let capacity = prompt.len().saturating_add(options.max_tokens);
    let mut engine = Engine::new(weights, capacity)?;
    generate(&mut engine, &vocabulary, &mut sampler, options, &prompt)?;
    println!("kernel launches: {}", engine.launches());
    Ok(ExitCode::SUCCESS)
}

fn generate(
    engine: &mut Engine,
    vocabulary: &Vocabulary,
    sampler: &mut Sampler,
    options: &Options,
    prompt: &[u32],
) -> Result<()> {
    let start = Instant::now();
    let bar = layers_bar("reading the prompt", engine.layers());
    let mut states = engine.forward(prompt, || bar.inc(1))?;
    bar.finish_and_clear();
    let reading = start.elapsed();

    print!("\n{}", options.prompt);
    let start = Instant::now();
    let mut decoder = Decoder::new(vocabulary);
    let mut added = 0;
    while added < options.max_tokens {
        let token = sampler.sample(&engine.last_logits(&states)?)?;
        if vocabulary.is_end(token) {
            break;
        }
        added += 1;
        print!("{}", decoder.push(token)?);
        io::stdout().flush().context("cannot print")?;
        if added < options.max_tokens {
            states = engine.forward(&[token], || ())?;
        }
    }
    println!("\n");
    report("prompt", prompt.len(), reading);
    report("continuation", added, start.elapsed());
    Ok(())
}

fn report(what: &str, tokens: usize, time: Duration) {
    let seconds = time.as_secs_f64();
    let rate = tokens as f64 / seconds;
    println!("{what}: {tokens} tokens in {seconds:.1} s, {rate:.2} tokens/s");
}

/// A bar over the layers of a forward pass, on stderr if that is a terminal.
fn layers_bar(what: &'static str, layers: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:36}] layer {pos} of {len}, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(layers as u64)
        .with_style(style)
        .with_message(what)
}
