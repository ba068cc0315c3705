//! What is refused, with the line and a sentence that says why.

use super::*;

#[test]
fn errors_name_the_line_and_the_reason() {
    for (text, line, message) in [
        (
            ".entry k() {\n bra nowhere;\n}",
            5,
            "nowhere is not declared",
        ),
        (".entry k() {\n ret\n}", 6, "expected an operand, found `}`"),
        (
            ".entry k() {\n bar.sync 0 bar.sync 1;\n}",
            5,
            "expected `,` or `;`, found `bar`",
        ),
        (".entry k() {\n ret;", 5, "the function is not closed"),
        (
            ".entry k() {\n .reg .b31 %r<2>;\n}",
            5,
            "expected the type of a register, found `.b31`",
        ),
        (".entry k() {\n a: a: ret;\n}", 5, "a is declared twice"),
        (
            ".entry k() {\n .reg .b32 a; a: ret;\n}",
            5,
            "a is declared twice",
        ),
        (
            ".entry k(.param .u32 a) {\n .reg .b32 a;\n}",
            5,
            "a is declared twice",
        ),
        (
            ".entry k() {\n .local .b32 x, x;\n}",
            5,
            "x is declared twice",
        ),
        (".global .b32 a;\n.global .b32 a;", 5, "a is declared twice"),
        (
            ".func f() { ret; }\n.func f() { ret; }",
            5,
            "f is declared twice",
        ),
        (
            ".func f() { ret; }\n.global .b32 f;",
            5,
            "f is declared twice",
        ),
        ("\n.alias f, g;", 5, "f is not a function"),
        (
            ".entry k() {\n .global b32 x;\n}",
            5,
            "expected a type, found `b32`",
        ),
        (
            ".entry k(.global .b32 x) { }",
            4,
            "a parameter is in .param or .reg",
        ),
        (
            ".entry k() {\n .wrong 4;\n}",
            5,
            "the directive .wrong is not known here",
        ),
        (
            ".entry k() .wrong { }",
            4,
            "the directive .wrong is not known here",
        ),
        ("\n\n.wrong", 6, "the directive .wrong is not known here"),
        ("ret;", 4, "expected a directive, found `ret`"),
        ("/* comment\n\n", 4, "a comment is not closed"),
        (".file 1 \"a\nb\"", 4, "a string is not closed"),
        (".section .x {\n{ }\n", 6, "the section is not closed"),
        ("\n\u{e9}", 5, "unexpected character 'é'"),
        (
            ".pragma nounroll;",
            4,
            "expected a string, found `nounroll`",
        ),
    ] {
        let error = error(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert_eq!(error.message, message, "{text}");
    }
}

#[test]
fn operands_that_make_no_sense_are_refused() {
    for (instruction, message) in [
        ("mov.b32 r, r,;", "expected an operand, found `;`"),
        ("mov.b32 r, {r, };", "expected an operand, found `}`"),
        ("mov.b32 r, x;", "x is not declared"),
        ("mov.b32 r, {x, r};", "x is not declared"),
        ("mov.b32 r, x.b0;", "x is not declared"),
        ("ld.b32 r, [x];", "x is not declared"),
        ("ld.b32 r, [x, {r}];", "x is not declared"),
        ("mov.b32 r, %r;", "%r is not declared"),
        ("mov.b32 r, %tid.q;", "%tid has no component .q"),
        ("mov.b32 r, v.z;", "v has no component .z"),
        ("ld.b32 r, [r+r];", "expected a constant, found `r`"),
        ("ld.b32 r, [v];", "this is not an address"),
        ("ld.b32 r, [r;", "expected `]`, found `;`"),
        (
            "ld.b32 r, s[2];",
            "an array element is not an operand; write [s+offset]",
        ),
        ("mov.b32 r, !s;", "only a predicate can be negated"),
        ("mov.b32 r, -s;", "only a register can have a sign"),
        ("@x mov.b32 r, r;", "x is not declared"),
        ("@s mov.b32 r, r;", "s is not a predicate"),
        ("@r { mov.b32 r, r; }", "expected an instruction, found `{`"),
        ("%r.b32 r;", "expected an instruction, found `%r`"),
        ("; ret;", "expected a statement, found `;`"),
        ("mov.b32 r, (r);", "expected a constant, found `r`"),
        ("call (x), k;", "x is not declared"),
    ] {
        let refused = refusal(&format!(
            ".reg .b32 r; .reg .v2 .b32 v; .shared .b32 s[4]; {instruction}"
        ));
        assert_eq!(refused, message, "{instruction}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(5000), close.repeat(5000));
    let dimensions = "[1]".repeat(5000);
    for text in [
        format!(".global .u32 a = {};", nested("(", ")")),
        format!(".global .u32 a = {}1;", "-".repeat(5000)),
        format!(".global .u32 a = {}1;", "1 ? ".repeat(5000)),
        format!(".global .u32 a = 0{};", " ? 1 : 0".repeat(5000)),
        format!(".entry k() {}", nested("{", "}")),
        format!(".entry k() {{ mov.b32 a, {}; }}", nested("{", "}")),
        format!(
            ".entry k() {{ .reg .b32 a; ld.b32 a, {}; }}",
            "[a, ".repeat(5000)
        ),
    ] {
        let refused = error(&text).message;
        assert!(refused.contains("too deeply"), "{refused}");
    }
    let refused = error(&format!(".global .u32 a{dimensions};")).message;
    assert!(refused.contains("too many dimensions"), "{refused}");
}
