//! The engine on a small random model, which needs no download.

use std::io::Write;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::NamedTempFile;

use crate::engine::{Activation, Dialect, Engine};
use crate::reference::{Reference, difference};
use crate::text::{Decoder, Vocabulary};
use crate::weights::Weights;

const WIDTH: usize = 96;
const HIDDEN: usize = 160;
const HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const VOCABULARY: usize = 40;
const LAYERS: usize = 3;
const CONTEXT: u32 = 64;

/// Two local layers with a window of 6 keys, then a global one.
fn metadata() -> Vec<(&'static str, Value)> {
    let count = |value: usize| Value::U32(value as u32);
    vec![
        ("general.architecture", Value::String("gemma3".into())),
        ("gemma3.block_count", count(LAYERS)),
        ("gemma3.embedding_length", count(WIDTH)),
        ("gemma3.feed_forward_length", count(HIDDEN)),
        ("gemma3.attention.head_count", count(HEADS)),
        ("gemma3.attention.head_count_kv", count(1)),
        ("gemma3.attention.key_length", count(HEAD_DIM)),
        ("gemma3.attention.value_length", count(HEAD_DIM)),
        ("gemma3.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("gemma3.attention.sliding_window", Value::U32(6)),
        ("gemma3.attention.sliding_window_pattern", count(LAYERS)),
        // candle's name for it.
        ("gemma3.attention.sliding_window_type", count(LAYERS)),
        ("gemma3.rope.freq_base", Value::F32(1_000_000.0)),
        ("gemma3.context_length", Value::U32(CONTEXT)),
    ]
}

fn tensors() -> Vec<(String, QTensor)> {
    let mut rng = StdRng::seed_from_u64(11);
    let mut tensor = |name: String, shape: &[usize]| {
        let len = shape.iter().product();
        // Matrices keep the size of what they multiply, norm weights are near 1.
        let (centre, spread) = match shape {
            [_, columns] => (0.0, (3.0 / *columns as f32).sqrt()),
            _ => (1.0, 0.3),
        };
        let values: Vec<f32> = (0..len)
            .map(|_| centre + rng.random_range(-spread..spread))
            .collect();
        let values = Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor");
        let tensor = QTensor::quantize(&values, GgmlDType::F32).expect("a tensor");
        (name, tensor)
    };
    let mut tensors = vec![
        tensor("token_embd.weight".into(), &[VOCABULARY, WIDTH]),
        tensor("output_norm.weight".into(), &[WIDTH]),
    ];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("attn_norm", &[WIDTH][..]),
            ("attn_q", &[HEADS * HEAD_DIM, WIDTH]),
            ("attn_k", &[HEAD_DIM, WIDTH]),
            ("attn_v", &[HEAD_DIM, WIDTH]),
            ("attn_q_norm", &[HEAD_DIM]),
            ("attn_k_norm", &[HEAD_DIM]),
            ("attn_output", &[WIDTH, HEADS * HEAD_DIM]),
            ("post_attention_norm", &[WIDTH]),
            ("ffn_norm", &[WIDTH]),
            ("ffn_gate", &[HIDDEN, WIDTH]),
            ("ffn_up", &[HIDDEN, WIDTH]),
            ("ffn_down", &[WIDTH, HIDDEN]),
            ("post_ffw_norm", &[WIDTH]),
        ] {
            tensors.push(tensor(format!("blk.{layer}.{part}.weight"), shape));
        }
    }
    tensors
}

fn write(metadata: &[(&'static str, Value)], tensors: &[(String, QTensor)]) -> NamedTempFile {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = NamedTempFile::new().expect("a file");
    gguf_file::write(&mut file, &metadata, &tensors).expect("a written model");
    file
}

fn engine(path: &Path, capacity: usize) -> Engine {
    cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
    let weights = Weights::read(path).expect("weights");
    Engine::new(weights, capacity).expect("an engine")
}

fn logits(engine: &mut Engine, tokens: &[u32]) -> Vec<f32> {
    let states = engine.forward(tokens, || ()).expect("states");
    engine.last_logits(&states).expect("logits")
}

/// As far as f16 queries, keys, values and probabilities may take logits that are of the order of 10.
const TOLERANCE: f32 = 0.02;

#[test]
fn logits_are_those_of_candle() {
    let file = write(&metadata(), &tensors());
    let mut reference = Reference::read(file.path()).expect("a reference");
    let tokens: Vec<u32> = (0..30).map(|i| (i * 17 + 5) % VOCABULARY as u32).collect();
    let mut engine = engine(file.path(), tokens.len());

    engine.dialect = Dialect {
        activation: Activation::Silu,
        windows: true,
    };
    for len in [1, 6, 7, 8, 30] {
        engine.truncate(0);
        let theirs = reference.logits(&tokens[..len], 0).expect("logits");
        let apart = difference(&logits(&mut engine, &tokens[..len]), &theirs);
        assert!(apart < TOLERANCE, "{len} tokens with windows: {apart}");
    }

    engine.dialect.windows = false;
    engine.truncate(0);
    for (position, token) in tokens.iter().enumerate() {
        let theirs = reference.logits(&[*token], position).expect("logits");
        let apart = difference(&logits(&mut engine, &[*token]), &theirs);
        assert!(apart < TOLERANCE, "token {position} by itself: {apart}");
    }
}

#[test]
fn the_cache_replaces_reading_again() {
    let file = write(&metadata(), &tensors());
    let tokens: Vec<u32> = (0..24).map(|i| (i * 7 + 3) % VOCABULARY as u32).collect();
    let mut engine = engine(file.path(), tokens.len());
    let at_once = logits(&mut engine, &tokens);

    for chunks in [&[9, 1, 14][..], &[1; 24]] {
        engine.truncate(0);
        let mut rest = &tokens[..];
        let mut last = Vec::new();
        for &len in chunks {
            let (chunk, after) = rest.split_at(len);
            last = logits(&mut engine, chunk);
            rest = after;
        }
        let apart = difference(&last, &at_once);
        assert!(apart < TOLERANCE, "in chunks of {chunks:?}: {apart}");
    }

    // What was forgotten leaves no trace.
    engine.truncate(10);
    logits(&mut engine, &[1, 2, 3]);
    engine.truncate(10);
    let again = logits(&mut engine, &tokens[10..]);
    assert!(difference(&again, &at_once) < TOLERANCE);

    engine.truncate(0);
    engine.dialect.windows = false;
    let without = logits(&mut engine, &tokens);
    assert!(
        difference(&without, &at_once) > 10.0 * TOLERANCE,
        "the test cannot see windows"
    );
}

/// A vocabulary of one letter and of all bytes.
fn vocabulary() -> Vocabulary {
    const CONTROL: i32 = 3;
    const NORMAL: i32 = 1;
    const BYTE: i32 = 6;
    let mut tokens: Vec<(String, i32)> = vec![
        ("<unk>".into(), CONTROL),
        ("<eos>".into(), CONTROL),
        ("<bos>".into(), CONTROL),
        ("w".into(), NORMAL),
    ];
    tokens.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
    let array =
        |value: fn(&(String, i32)) -> Value| Value::Array(tokens.iter().map(value).collect());
    let metadata = [
        ("tokenizer.ggml.model", Value::String("llama".into())),
        (
            "tokenizer.ggml.tokens",
            array(|(text, _)| Value::String(text.clone())),
        ),
        ("tokenizer.ggml.scores", array(|_| Value::F32(0.0))),
        (
            "tokenizer.ggml.token_type",
            array(|(_, kind)| Value::I32(*kind)),
        ),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.eos_token_id", Value::U32(1)),
        ("tokenizer.ggml.bos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
    ];
    Vocabulary::read(write(&metadata, &[]).path()).expect("a vocabulary")
}

#[test]
fn characters_wait_for_their_last_byte() {
    let vocabulary = vocabulary();
    let mut decoder = Decoder::new(&vocabulary);
    let byte = |byte: u8| 4 + u32::from(byte);
    let mut push = |token| decoder.push(token).expect("text");
    assert_eq!(push(3), "w");
    assert_eq!(push(byte(0xE6)), "");
    assert_eq!(push(byte(0x97)), "");
    assert_eq!(push(byte(0xA5)), "日");
    // Bytes that come to nothing hold up nothing.
    assert_eq!(push(byte(0xE6)), "");
    assert_eq!(push(3), "\u{FFFD}w");
    assert!(vocabulary.is_end(1) && !vocabulary.is_end(3));
    let tokens = vocabulary.encode("w日").expect("tokens");
    assert_eq!(tokens, [2, 3, byte(0xE6), byte(0x97), byte(0xA5)]);
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let file = write(&metadata(), &tensors());
    let weights = || Weights::read(file.path()).expect("weights");
    cusim::Device::from_env("FERROFLASH_DEVICE").expect("a device");
    let error = Engine::new(weights(), CONTEXT as usize + 1).err();
    let error = error.expect("an error").to_string();
    assert!(error.contains("a context of 64"), "{error}");

    let mut engine = Engine::new(weights(), 4).expect("an engine");
    logits(&mut engine, &[1, 2, 3]);
    let error = engine.forward(&[4, 5], || ()).expect_err("an error");
    assert!(error.to_string().contains("do not fit"), "{error}");
    assert!(engine.forward(&[], || ()).is_err());
    logits(&mut engine, &[4]);
}

#[test]
fn bad_files_say_what_is_wrong() {
    let read = |path: &Path| match Weights::read(path) {
        Ok(_) => String::new(),
        Err(error) => format!("{error:#}"),
    };
    let complaint =
        |metadata: &[_], tensors: &[_]| read(write(metadata, tensors).path()).to_string();

    let mut garbage = NamedTempFile::new().expect("a file");
    garbage.write_all(b"no model at all").expect("written");
    let error = read(garbage.path());
    assert!(error.contains("not a readable GGUF file"), "{error}");
    let error = read(Path::new("/nowhere/model.gguf"));
    assert!(error.contains("cannot open /nowhere/model.gguf"), "{error}");

    for missing in 0..metadata().len() {
        let mut some = metadata();
        let (key, _) = some.remove(missing);
        let error = complaint(&some, &tensors());
        let has_default = ["pattern", "window_type", "rope.freq_base", "value_length"]
            .iter()
            .any(|part| key.contains(part));
        assert_eq!(error.is_empty(), has_default, "without {key}: {error}");
        assert!(has_default || error.contains(key), "{error}");
    }

    let mut other = metadata();
    other[0].1 = Value::String("llama".into());
    let error = complaint(&other, &tensors());
    assert!(error.contains("llama, not gemma3"), "{error}");

    let mut some = tensors();
    let (name, _) = some.pop().expect("a tensor");
    let error = complaint(&metadata(), &some);
    assert!(error.contains(&name), "{error}");

    let mut other = metadata();
    let heads = other
        .iter_mut()
        .find(|(key, _)| key.ends_with("head_count"))
        .expect("an entry");
    heads.1 = Value::U32(3);
    let error = complaint(&other, &tensors());
    assert!(
        error.contains("blk.0.attn_q.weight has the shape"),
        "{error}"
    );
}
