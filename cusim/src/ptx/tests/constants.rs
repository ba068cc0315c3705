//! Literals, constant expressions, variables and their initialisers.

use super::*;

/// What an operand of a `mov` comes to.
fn constant(text: &str) -> Operand {
    let statements = format!(".reg .b64 x; mov.b64 x, {text};");
    body(&statements).instructions[0].operands[1].clone()
}

fn int(text: &str) -> i64 {
    match constant(text) {
        Operand::Int(bits) => bits as i64,
        other => panic!("{text}: {other:?}"),
    }
}

fn float(text: &str) -> f64 {
    match constant(text) {
        Operand::F64(bits) => f64::from_bits(bits),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn integers_have_four_bases_and_a_suffix() {
    for (text, value) in [
        ("31", 31),
        ("037", 31),
        ("0x1f", 31),
        ("0X1FU", 31),
        ("0b11111", 31),
        ("0B11111U", 31),
        ("0", 0),
        ("WARP_SZ", 32),
        ("-1", -1),
        ("18446744073709551615", -1),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(int(text), value, "{text}");
    }
    for text in [
        "08",
        "7u",
        "0x",
        "0x1_0",
        "0b12",
        "18446744073709551616",
        "1x",
    ] {
        refusal(&format!(".reg .b64 x; mov.b64 x, {text};"));
    }
}

#[test]
fn floats_are_bits_or_decimal() {
    assert_eq!(constant("0f3F800000"), Operand::F32(0x3f80_0000));
    assert_eq!(constant("0F3f800000"), Operand::F32(0x3f80_0000));
    assert_eq!(float("0d3FF8000000000000"), 1.5);
    for (text, value) in [
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
        ("1.e3", 1000.0),
        (".5E-1", 0.05),
        ("-(1.5)", -1.5),
        ("+1.5", 1.5),
    ] {
        assert_eq!(float(text), value, "{text}");
    }
    for text in ["0f3F80", "0f3F8000000", "0d3FF", "-0f3F800000", "1.5f"] {
        refusal(&format!(".reg .b64 x; mov.b64 x, {text};"));
    }
}

#[test]
fn operators_bind_as_in_c() {
    for (text, value) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("1 | 6 ^ 3 & 2", 5),
        ("1 << 2 + 1", 8),
        ("1 + 1 == 2 && 3 < 4", 1),
        ("0 || 0 && 1", 0),
        ("2 == 1 < 3", 0),
        ("8 >> 1 < 5", 1),
        ("3 & 2 == 2", 1),
        ("1 ? 2 : 3 ? 4 : 5", 2),
        ("0 ? 2 : 0 ? 4 : 5", 5),
        ("(0xF0 & 0xCC) | 0xAA", 0xEA),
        ("-+-5", 5),
        ("!5 + !0", 1),
        ("WARP_SZ - 1", 31),
        ("100 / 7 % 4", 2),
    ] {
        assert_eq!(int(text), value, "{text}");
    }
}

#[test]
fn signs_are_those_of_ptxas() {
    for (text, value) in [
        ("-1 / 2", 0),
        ("-1U / 2", i64::MAX),
        ("~0 / 2", i64::MAX),
        ("(.s64) ~0 / 2", 0),
        ("(.u64) -1 / 2", i64::MAX),
        ("-9 % 5", 2),
        ("(7 % 5 - 3) / 2", i64::MAX),
        ("-1 >> 1U", -1),
        ("-1U >> 1", i64::MAX),
        ("1 << 64", 1),
        ("1 << 65", 2),
        ("(1 & 3) - 2 < 0 ? 5 : 6", 5),
        ("-1 < 0U", 0),
        ("(1 ? -1 : 1U) / 2", 0),
    ] {
        assert_eq!(int(text), value, "{text}");
    }
}

#[test]
fn floats_have_operators_too_but_do_not_mix() {
    assert_eq!(float("1.0 / 4.0 + 0d3FF0000000000000 * 2.0"), 2.25);
    assert_eq!(int("1.0 < 2.0 ? 5 : 6"), 5);
    for (text, message) in [
        ("1.5 + 1", "do not mix"),
        ("1.5 % 1.0", "does not apply"),
        ("~1.5", "not an integer"),
        ("1.5 ? 1 : 2", "not an integer"),
        ("4 / 0", "division by zero"),
        ("4 % 0", "division by zero"),
    ] {
        let refused = refusal(&format!(".reg .b64 x; mov.b64 x, {text};"));
        assert!(refused.contains(message), "{text}: {refused}");
    }
}

#[test]
fn variables_have_sizes_and_alignments() {
    let module = module(
        ".global .b32 a; .const .align 16 .b8 b[3]; .global .f64 c[2][3], d;\n\
         .global .v4 .f32 e; .extern .shared .align 128 .b8 f[]; .shared .v2 .u16 g[5];\n\
         .global .attribute(.managed) .align 8 .b32 h; .common .global .b128 i;\n\
         .global .attribute(.unified(19, 95)) .b32 j; .global .texref k = { width = 4, addr_mode_0 = wrap };",
    );
    let found: Vec<_> = module
        .variables
        .iter()
        .map(|v| (&*v.name, v.align, v.size))
        .collect();
    assert_eq!(
        found,
        [
            ("a", 4, Some(4)),
            ("b", 16, Some(3)),
            ("c", 8, Some(48)),
            ("d", 8, Some(8)),
            ("e", 16, Some(16)),
            ("f", 128, None),
            ("g", 4, Some(20)),
            ("h", 8, Some(4)),
            ("i", 16, Some(16)),
            ("j", 4, Some(4)),
            ("k", 8, Some(8)),
        ]
    );
    assert!(module.variables[5].is_extern);
    assert!(module.variables.iter().all(|v| v.init.is_none()));
}

/// The initialiser of the last variable.
fn init(text: &str) -> Initializer {
    let variable = module(text).variables.pop().expect(text);
    let init = variable.init.expect(text);
    assert_eq!(Some(init.bytes.len() as u64), variable.size, "{text}");
    init
}

#[test]
fn initialisers_become_bytes() {
    for (text, bytes) in [
        (".global .b8 s[] = {104, 257, -1};", &[104, 1, 255][..]),
        (
            ".global .u16 a[2][3] = {{1}, {2, 3}};",
            &[1, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0],
        ),
        (
            ".global .u16 a[][2] = {{1, 2}, {3}};",
            &[1, 0, 2, 0, 3, 0, 0, 0],
        ),
        (".global .v2 .u8 a[2] = {{1, 2}, {3, 4}};", &[1, 2, 3, 4]),
        (".global .u8 a[4] = {WARP_SZ / 2, 1 << 3};", &[16, 8, 0, 0]),
        (
            ".global .s64 a = -2;",
            &[254, 255, 255, 255, 255, 255, 255, 255],
        ),
    ] {
        assert_eq!(init(text).bytes, bytes, "{text}");
    }
    assert_eq!(
        init(".const .f32 f = 0f40000000;").bytes,
        2f32.to_le_bytes()
    );
    assert_eq!(
        init(".const .f32 f = 1.0/3.0;").bytes,
        (1f32 / 3.0).to_le_bytes()
    );
    assert_eq!(init(".const .f64 f = -1.5;").bytes, (-1.5f64).to_le_bytes());
}

#[test]
fn initialisers_may_be_addresses() {
    let text = ".global .u32 a[3]; .func f;\n\
                .global .u64 p[5] = {a, 7, generic(a)+8, a + -4, f};";
    let a = Symbol::Module(0);
    assert_eq!(
        init(text).relocations,
        [
            (0, a.clone(), 0, false),
            (16, a.clone(), 8, true),
            (24, a, -4, false),
            (32, Symbol::Function(0), 0, false),
        ]
    );
}

#[test]
fn an_address_may_be_given_byte_by_byte() {
    // As nvcc writes packed structures.
    let bytes: Vec<String> = (0..8)
        .map(|n| format!("{:#X}(generic(a)+8)", 0xFFu64 << (8 * n)))
        .collect();
    let text = format!(
        ".global .b32 a[4]; .global .align 1 .u8 s[10] = {{5, {}, 6}};",
        bytes.join(", ")
    );
    let init = init(&text);
    assert_eq!(init.relocations, [(1, Symbol::Module(0), 8, true)]);
    assert_eq!(init.bytes, [5, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
}

#[test]
fn wrong_initialisers_are_refused() {
    for (text, message) in [
        (".global .u32 a[2][3] = {1, 2};", "expected `{`, found 1"),
        (
            ".global .u32 a[2] = {1, 2, 3};",
            "more values than the variable",
        ),
        (
            ".global .u32 a[3] = {1, 2,};",
            "expected a constant, found `}`",
        ),
        (".global .u32 a = {5};", "expected a constant, found `{`"),
        (".global .u32 a[3] = 5;", "expected `{`"),
        (".global .f32 a = 1;", "does not fit"),
        (".global .s32 a = 2.5;", "does not fit"),
        (".global .f16 a = 1.0;", "does not fit"),
        (".global .b32 a; .global .u16 b = a;", "needs .u32 or .u64"),
        (".global .u64 b = c;", "c is not declared"),
        (
            ".global .b32 a; .global .u8 b[2] = {0xFF(a), 5};",
            "all its bytes",
        ),
        (
            ".global .b32 a; .global .u8 b[2] = {0xFF(a), 0xFF00(a)};",
            "all its bytes",
        ),
        (
            ".global .b32 a; .global .u8 b[2] = {0xFF00(a)};",
            "not that of byte 0",
        ),
        (
            ".global .b32 a; .global .u16 b[2] = {0xFF(a)};",
            "one at a time",
        ),
        (".global .b8 a[1000000000000] = {1};", "too large"),
        (".global .b8 a[][1000000000000] = {{1}, {2}};", "too large"),
        (".global .u32 a[1 << 62];", "too large"),
        (".global .u32 a[1 << 30][1 << 30];", "too large"),
        (".global .align 3 .u32 a;", "3 is not an alignment"),
    ] {
        let refused = error(text).message;
        assert!(refused.contains(message), "{text}: {refused}");
    }
    let text: String = (0..3)
        .map(|n| format!(".global .b8 a{n}[500000000] = {{1}};"))
        .collect();
    assert!(error(&text).message.contains("too large"));
}
