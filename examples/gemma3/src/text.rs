//! Text to tokens and back, with the vocabulary in the model file.

use std::path::Path;

use anyhow::{Context, Result};
use shimmytok::Tokenizer;

/// The vocabulary of a model.
pub struct Vocabulary(Tokenizer);

impl Vocabulary {
    /// Reads the vocabulary of a GGUF file.
    pub fn read(path: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf_file(path)
            .with_context(|| format!("no usable vocabulary in {}", path.display()))?;
        Ok(Self(tokenizer))
    }

    /// The tokens of `text`, with the one first that Gemma expects at the beginning.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.0.encode(text, true)?)
    }

    /// Whether the model says with this token that it is done.
    pub fn is_end(&self, token: u32) -> bool {
        token == self.0.eos_token()
    }
}

/// Turns tokens into text as they come. A character that the vocabulary lacks comes as one token per byte:
/// those wait for their last.
pub struct Decoder<'a> {
    vocabulary: &'a Vocabulary,
    waiting: Vec<u32>,
}

impl<'a> Decoder<'a> {
    pub fn new(vocabulary: &'a Vocabulary) -> Self {
        Self {
            vocabulary,
            waiting: Vec::new(),
        }
    }

    /// The text that is complete with this token; may be empty.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.waiting.push(token);
        let text = self.vocabulary.0.decode(&self.waiting, true)?;
        // Four bytes make any character: what is not one by then never will be.
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.waiting.len() < 4 {
            return Ok(String::new());
        }
        self.waiting.clear();
        Ok(text)
    }
}
