//! Compares with candle-transformers' quantized_gemma3 on the CPU.
//!
//! What it computes is not quite Gemma 3 (see [`crate::reference`]), so ours follows it where it strays: SiLU
//! for GELU everywhere, and no sliding windows where it reads token by token, which is the only way to get
//! its logits at every position. Windows are compared at the last tokens of whole passages, which it reads
//! with them.
//!
//! Quantised products round their inputs to 8 bits, which magnifies the last bit of a sum: so much that
//! candle token by token and candle all at once agree on only 94 % of the likeliest tokens of this passage.
//! The comparison would measure that. So both sides multiply by the same quantised weights in f32, which is
//! what candle's switch `CANDLE_DEQUANTIZE_ALL` is for.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use indicatif::{ProgressBar, ProgressStyle};

use crate::engine::{Activation, Dialect, Engine};
use crate::reference::{Reference, difference};
use crate::sampling::{argmax, surprise};
use crate::text::Vocabulary;
use crate::weights::Weights;
use crate::{fetch, layers_bar};

/// The beginning of Alice's Adventures in Wonderland by Lewis Carroll, 1865.
const PASSAGE: &str = include_str!("passage.txt");

const PERPLEXITY_BOUND: f64 = 0.005;
const AGREEMENT_BOUND: f64 = 0.99;
/// Largest difference of any logit where only f16 roundings differ.
const LOGIT_BOUND: f32 = 0.1;

/// Tokens that our engine reads one by one at the end of the passage.
const DECODED: usize = 8;
/// Passages with windows: so many, each so many tokens shorter than the one before.
const WINDOWED: usize = 3;
const WINDOWED_STEP: usize = 40;
/// States whose logits are computed at once: their memory adds up.
const LOGITS_AT_ONCE: usize = 32;

const SWITCH: &str = "CANDLE_DEQUANTIZE_ALL";

/// Whether candle was told to multiply in f32.
pub fn products_are_f32() -> bool {
    std::env::var_os(SWITCH).is_some_and(|value| value == "1")
}

/// Runs this program again with products in f32: candle looks at the environment only, which a program
/// cannot soundly change for itself.
pub fn restart_with_f32_products() -> Result<ExitCode> {
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(SWITCH, "1")
        .status()
        .context("cannot run this program again")?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    })
}

/// Prints the comparison; fails outside the bounds.
pub fn run(path: &Path, vocabulary: &Vocabulary, weights: Weights) -> Result<ExitCode> {
    println!("matrix products: candle-core on the CPU, weights quantised, products in f32");
    let tokens = vocabulary.encode(PASSAGE.trim_end())?;
    let window = weights.config.window as usize;
    ensure!(
        tokens.len() >= 600 && tokens.len() > window + WINDOWED * WINDOWED_STEP,
        "the passage has {} tokens in this model's vocabulary, too few for windows of {window}",
        tokens.len()
    );
    println!("passage: {} tokens", tokens.len());
    let mut engine = Engine::new(weights, tokens.len())?;
    let start = Instant::now();
    let ours = Ours::read(&mut engine, &tokens, window)?;
    println!(
        "ferroflash: {} in {:.0} s",
        engine.launches(),
        start.elapsed().as_secs_f64()
    );

    let loading = fetch::spinner("candle reads the model");
    let mut reference = Reference::read(path)?;
    loading.finish_and_clear();

    let comparison = compare(&engine, &ours.plain, &mut reference, &tokens)?;
    let windowed = compare_windows(&engine, &ours, &mut reference, &tokens)?;
    let decoded = compare_decoded(&engine, &ours)?;
    let trained = perplexity(&engine, &ours.trained, &tokens)?;
    let ok = [
        comparison.print(),
        windowed.print(),
        verdict(
            &format!(
                "last {DECODED} tokens one by one instead of at once: largest logit difference {decoded:.4}"
            ),
            decoded <= LOGIT_BOUND,
        ),
    ];
    println!("perplexity as trained, with GELU and windows (ferroflash): {trained:.3}");
    Ok(if ok.iter().all(|ok| *ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// States of the passage as our engine reads it.
struct Ours {
    /// SiLU, no windows.
    plain: Tensor,
    /// SiLU, windows.
    windowed: Tensor,
    /// The last tokens of the same, read one by one.
    decoded: Tensor,
    /// GELU, windows: the model.
    trained: Tensor,
}

impl Ours {
    fn read(engine: &mut Engine, tokens: &[u32], window: usize) -> Result<Self> {
        let bar = layers_bar("ferroflash", (4 + DECODED) * engine.layers());
        let read = |engine: &mut Engine, tokens: &[u32]| engine.forward(tokens, || bar.inc(1));
        engine.dialect = Dialect {
            activation: Activation::Silu,
            windows: false,
        };
        // No window hides anything from the first tokens: they serve both dialects. The others then are
        // read against a cache that is longer than they are many.
        let (head, tail) = tokens.split_at(window);
        let head = read(engine, head)?;
        let plain = Tensor::cat(&[&head, &read(engine, tail)?], 0)?;
        engine.dialect.windows = true;
        engine.truncate(window);
        let windowed = Tensor::cat(&[&head, &read(engine, tail)?], 0)?;
        let last = tokens.len() - DECODED;
        engine.truncate(last);
        let decoded = tokens[last..]
            .iter()
            .map(|&token| read(engine, &[token]))
            .collect::<Result<Vec<_>>>()?;
        engine.dialect = Dialect::default();
        engine.truncate(0);
        let trained = read(engine, tokens)?;
        bar.finish_and_clear();
        Ok(Self {
            plain,
            windowed,
            decoded: Tensor::cat(&decoded, 0)?,
            trained,
        })
    }
}

/// All positions of the passage, both sides without windows.
struct Comparison {
    perplexity: f64,
    reference_perplexity: f64,
    agreeing: usize,
    positions: usize,
    largest_difference: f32,
}

fn compare(
    engine: &Engine,
    states: &Tensor,
    reference: &mut Reference,
    tokens: &[u32],
) -> Result<Comparison> {
    let bar = tokens_bar("candle, token by token", tokens.len());
    let mut loss = 0.0;
    let mut reference_loss = 0.0;
    let mut agreeing = 0;
    let mut largest_difference = 0f32;
    each_logits(engine, states, |position, ours| {
        let theirs = reference.logits(&tokens[position..=position], position)?;
        agreeing += usize::from(argmax(ours) == argmax(&theirs));
        largest_difference = largest_difference.max(difference(ours, &theirs));
        if let Some(&next) = tokens.get(position + 1) {
            loss += surprise(ours, next);
            reference_loss += surprise(&theirs, next);
        }
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();
    let predicted = (tokens.len() - 1) as f64;
    Ok(Comparison {
        perplexity: (loss / predicted).exp(),
        reference_perplexity: (reference_loss / predicted).exp(),
        agreeing,
        positions: tokens.len(),
        largest_difference,
    })
}

impl Comparison {
    fn print(&self) -> bool {
        let Self {
            perplexity: ours,
            reference_perplexity: theirs,
            ..
        } = *self;
        let off = (ours - theirs).abs() / theirs;
        let agreement = self.agreeing as f64 / self.positions as f64;
        println!("without windows, SiLU for GELU, as candle token by token:");
        let ok = [
            verdict(
                &format!(
                    "  perplexity: ferroflash {ours:.4}, candle {theirs:.4}, off by {:.4} %",
                    100.0 * off
                ),
                off <= PERPLEXITY_BOUND,
            ),
            verdict(
                &format!(
                    "  same likeliest token: {} of {}, {:.2} %",
                    self.agreeing,
                    self.positions,
                    100.0 * agreement
                ),
                agreement >= AGREEMENT_BOUND,
            ),
            verdict(
                &format!("  largest logit difference: {:.4}", self.largest_difference),
                self.largest_difference <= LOGIT_BOUND,
            ),
        ];
        ok.iter().all(|ok| *ok)
    }
}

/// The last tokens of passages longer than the window.
struct Windows {
    positions: usize,
    largest_difference: f32,
    /// Smallest difference that leaving the windows out would make.
    without: f32,
}

fn compare_windows(
    engine: &Engine,
    ours: &Ours,
    reference: &mut Reference,
    tokens: &[u32],
) -> Result<Windows> {
    let bar = tokens_bar("candle, passages with windows", WINDOWED);
    let mut largest_difference = 0f32;
    let mut without = f32::INFINITY;
    for step in 0..WINDOWED {
        let len = tokens.len() - step * WINDOWED_STEP;
        let theirs = reference.logits(&tokens[..len], 0)?;
        let at = |states: &Tensor| engine.last_logits(&states.narrow(0, 0, len)?);
        largest_difference = largest_difference.max(difference(&at(&ours.windowed)?, &theirs));
        without = without.min(difference(&at(&ours.plain)?, &theirs));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(Windows {
        positions: WINDOWED,
        largest_difference,
        without,
    })
}

impl Windows {
    fn print(&self) -> bool {
        verdict(
            &format!(
                "with windows, after {} passages: largest logit difference {:.4} (leaving the windows out \
                 makes at least {:.4})",
                self.positions, self.largest_difference, self.without
            ),
            self.largest_difference <= LOGIT_BOUND && self.without > LOGIT_BOUND,
        )
    }
}

/// How far reading token by token is from reading all at once.
fn compare_decoded(engine: &Engine, ours: &Ours) -> Result<f32> {
    let first = ours.windowed.dim(0)? - DECODED;
    let at_once = engine.logits(&ours.windowed.narrow(0, first, DECODED)?)?;
    let one_by_one = engine.logits(&ours.decoded)?;
    Ok((at_once - one_by_one)?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?)
}

fn perplexity(engine: &Engine, states: &Tensor, tokens: &[u32]) -> Result<f64> {
    let mut loss = 0.0;
    each_logits(engine, states, |position, logits| {
        if let Some(&next) = tokens.get(position + 1) {
            loss += surprise(logits, next);
        }
        Ok(())
    })?;
    Ok((loss / (tokens.len() - 1) as f64).exp())
}

/// Calls `visit` with every position and its logits.
fn each_logits(
    engine: &Engine,
    states: &Tensor,
    mut visit: impl FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let count = states.dim(0)?;
    for first in (0..count).step_by(LOGITS_AT_ONCE) {
        let some = states.narrow(0, first, LOGITS_AT_ONCE.min(count - first))?;
        let rows: Vec<Vec<f32>> = engine.logits(&some)?.to_vec2()?;
        for (index, row) in rows.iter().enumerate() {
            visit(first + index, row)?;
        }
    }
    Ok(())
}

fn verdict(what: &str, ok: bool) -> bool {
    println!("{what}: {}", if ok { "ok" } else { "OUT OF BOUNDS" });
    ok
}

fn tokens_bar(what: &'static str, count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:36}] {pos} of {len}, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count as u64)
        .with_style(style)
        .with_message(what)
}
