//! Megabytes are read, and no text makes the parser panic.

use std::fmt::Write;

use proptest::prelude::*;

use super::super::cfg;
use super::compiled::SAMPLE;
use super::*;

/// One of each thing that the grammar knows.
const KITCHEN_SINK: &str = "\
.version 9.0
.target sm_90a, debug
.address_size 64
.file 1 \"a.cu\"
.global .b32 g;
.global .align 8 .u64 p[2] = {generic(g)+8, 0xFF};
.const .v2 .f32 c[] = {{1.5, 0f3F800000}};
.extern .shared .align 16 .b8 dyn[];
.func (.reg .b32 r) f (.reg .b32 a) { mov.b32 r, a; ret; }
.visible .entry k(.param .u64 .ptr .align 1 q, .param .align 8 .b8 s[16]) .maxntid 32, 1 .noreturn
{
\t.reg .pred %p<3>; .reg .b32 %r<9>; .reg .v4 .f32 v; .local .b32 l[4][2];
\t.loc 1 2 3, function_name $L + 4, inlined_at 1 2 3
\t@!%p1 bra $X; { .reg .b32 x; mov.b32 x, (1 << 3) | ~0U ? -WARP_SZ : 0x7; }
$X: setp.eq.s32 %p1|_, %r1, %tid.x; ld.global.v4.f32 v, [%r1+-4].unified;
\tT: .branchtargets $X, $Y; brx.idx %r1, T; P: .callprototype (.param .b32 _) _ ();
$Y: call (%r1), f, (%r2); vadd.s32.s32.s32 %r1, %r2.b0, -%r3;
\tcp.async.bulk.tensor.1d.shared::cluster.global [dyn], [%r1, {%r2}], [l+8]; // end
\t.pragma \"nounroll\"; ret;
}
.section .debug_info { .b8 1 }
";

/// FlashAttention declares 15,800 registers, and its module has megabytes of text.
#[test]
fn large_modules_are_read() {
    let mut text = HEADER.to_owned();
    text.push_str(".entry k() { .reg .b32 %r<15800>;\n");
    for n in 0..50_000 {
        let [a, b, c] = [n, n + 1, n + 7].map(|n| n % 15_800);
        writeln!(text, "$L{n}:\tmad.lo.s32 %r{a}, %r{b}, %r{c}, -4;").expect("text");
    }
    text.push_str("bra $L0; }");
    let module = parse(&text).expect("a large module");
    let body = module.functions[0].body.as_ref().expect("a body");
    assert_eq!(
        (body.registers.len(), body.instructions.len()),
        (15_800, 50_001)
    );
    assert_eq!(cfg::ranks(body).len(), 50_001);
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_sequence_of_tokens_panics(
        tokens in prop::collection::vec(any::<prop::sample::Index>(), 0..60)
    ) {
        let known: Vec<&str> = KITCHEN_SINK.split_inclusive([' ', ',', ';', '(', '[', '{', '.']).collect();
        let text: String = tokens.iter().map(|token| known[token.index(known.len())]).collect();
        let _ = parse(&text);
        let _ = parse(&format!("{HEADER}.entry k() {{ {text}"));
    }

    #[test]
    fn no_damage_panics(
        which in 0..2usize,
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..30usize, "[ .,;:{}()\\[\\]<>@!|+*/%&^~?=a-z0-9-]{0,6}"),
            1..4,
        ),
    ) {
        let mut text = [KITCHEN_SINK, SAMPLE][which].to_owned();
        for (at, length, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Ok(module) = parse(&text) {
            module.functions.iter().filter_map(|f| f.body.as_ref()).for_each(|body| {
                cfg::ranks(body);
            });
        }
    }
}

#[test]
fn every_beginning_is_refused_or_read() {
    parse(KITCHEN_SINK).expect("all of it");
    for end in 0..KITCHEN_SINK.len() {
        let _ = parse(&KITCHEN_SINK[..end]);
    }
}
