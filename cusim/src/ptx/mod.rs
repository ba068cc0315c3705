//! PTX: text to a resolved syntax tree.

pub mod ast;
pub mod cfg;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

pub(crate) use lexer::begins;
pub use parser::parse;

use thiserror::Error;

/// Why a text is not PTX.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("PTX line {line}: {message}")]
pub struct ParseError {
    /// Line in the text, from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}
