//! PTX: text to a resolved syntax tree.
pub mod ast;
