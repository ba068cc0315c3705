//! The traps of PTX syntax. What is accepted and what constants come to was checked against ptxas.

mod compiled;
mod constants;
mod errors;
mod functions;
mod operands;
mod robustness;

use super::ast::*;
use super::{ParseError, parse};

const HEADER: &str = ".version 9.0\n.target sm_80\n.address_size 64\n";

/// A module of these directives, which start on line 4.
fn module(text: &str) -> Module {
    parse(&format!("{HEADER}{text}")).expect(text)
}

/// The body of an entry made of these statements, which start on line 5.
fn body(statements: &str) -> Body {
    let text = format!(".visible .entry k(.param .u64 p) {{\n{statements}\n}}");
    module(&text).functions.remove(0).body.expect("a body")
}

fn error(text: &str) -> ParseError {
    parse(&format!("{HEADER}{text}")).expect_err(text)
}

/// The message for an entry made of these statements.
fn refusal(statements: &str) -> String {
    error(&format!(".entry k(.param .u64 p) {{\n{statements}\n}}")).message
}

fn names(words: &[std::sync::Arc<str>]) -> Vec<&str> {
    words.iter().map(AsRef::as_ref).collect()
}
