//! Loads, stores and atomic operations with every qualifier, as the decode table lists them.

use cusim::program::opcodes;
use proptest::prelude::*;

use crate::arithmetic::sum;
use crate::exact::{BF16, F16, Format, Mode};
use crate::harness::{Operands, Out, config, integers, pairs, run};

/// The tests of this file.
pub const TESTS: &[fn()] = &[loads, stores, qualified_atomics, half_atomics, hints];

/// Modifiers that name constant memory or parameters, which these bodies have none of.
fn is_elsewhere(option: &str) -> bool {
    option.starts_with("param") || option == "const"
}

/// The bits of a type, the letter of its registers and where its results are.
fn kind(ty: &str) -> (u32, char, Out) {
    let bits: u32 = ty[1..].parse().expect("a width");
    match (ty, bits) {
        ("f32", _) => (32, 'f', Out::F),
        (_, 8 | 16) => (bits, 'h', Out::H),
        (_, 32) => (32, 'r', Out::R),
        _ => (64, 'q', Out::Q),
    }
}

/// Every mnemonic of an opcode: plain, and with each of its options.
fn mnemonics(opcode: &str) -> Vec<String> {
    let mut all = Vec::new();
    for form in opcodes().filter(|form| form.name.split('.').next() == Some(opcode)) {
        let rest = &form.name[opcode.len()..];
        all.push(form.name.clone());
        let options = form.options.iter().filter(|option| !is_elsewhere(option));
        // The order of two priorities says which is which.
        all.extend(options.map(|option| match form.name.rsplit_once('.') {
            Some((first, last)) if opcode == "createpolicy" => format!("{first}.{option}.{last}"),
            _ => format!("{opcode}.{option}{rest}"),
        }));
    }
    all
}

/// How many elements a mnemonic moves.
fn count(mnemonic: &str) -> u32 {
    let vectors = [(".v2.", 2), (".v4.", 4), (".v8.", 8)];
    let named = vectors.iter().find(|(name, _)| mnemonic.contains(name));
    named.map_or(1, |(_, count)| *count)
}

/// Registers for a vector whose last element is in `last`.
fn vector(file: char, count: u32, last: &str) -> String {
    let others = [4, 5, 6, 7, 10, 11, 12];
    let mut names: Vec<String> = others
        .iter()
        .take(count as usize - 1)
        .map(|n| format!("%{file}{n}"))
        .collect();
    names.push(last.to_owned());
    if count == 1 {
        names.remove(0)
    } else {
        format!("{{{}}}", names.join(", "))
    }
}

/// Lines that make a place of 32 bytes in the space of a mnemonic, and its address.
fn place(mnemonic: &str) -> (&'static str, &'static str, &'static str) {
    if mnemonic.contains(".shared") {
        let lines = "shl.b32 %r31, %r30, 5; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32;";
        (lines, "%r31", "shared")
    } else if mnemonic.contains(".local") {
        (
            ".local .align 32 .b8 stack[32]; mov.b32 %r31, stack;",
            "%r31",
            "local",
        )
    } else {
        ("", "%in", "global")
    }
}

/// An element of the 32 bytes that a thread's operands are, extended to its register.
fn element(operands: Operands, at: u32, ty: &str) -> u64 {
    let (bits, ..) = kind(ty);
    let first = at * bits;
    let x = operands[first as usize / 64] >> (first % 64) << (64 - bits);
    match (ty.starts_with('s'), bits) {
        (true, 8) => ((x as i64 >> 56) as u64) & 0xffff,
        _ => x >> (64 - bits),
    }
}

fn hint(mnemonic: &str) -> &'static str {
    if mnemonic.contains("cache_hint") {
        ", %q9"
    } else {
        ""
    }
}

/// What may follow a store of 32 bytes of operands.
const FILL: &str = "st.SPACE.v2.b64 [AT], {%q0, %q1}; st.SPACE.v2.b64 [AT+16], {%q2, %q3};";

proptest! {
    #![proptest_config(config())]

    #[test]
    fn loads(operands in proptest::collection::vec(any::<Operands>(), 1..40)) {
        for mnemonic in ["ld", "ldu"].into_iter().flat_map(mnemonics) {
            let ty = mnemonic.rsplit('.').next().expect("a type");
            let (bits, file, out) = kind(ty);
            let n = count(&mnemonic);
            if n * bits > 256 || n == 8 && bits != 32 {
                continue;
            }
            let (lines, address, space) = place(&mnemonic);
            let fill = FILL.replace("SPACE", space).replace("AT", address);
            let fill = if space == "global" { String::new() } else { fill };
            let dest = vector(file, n, &format!("%{file}8"));
            let body = format!("mov.b64 %q9, 0; {lines} {fill} {mnemonic} {dest}, [{address}]{};", hint(&mnemonic));
            for (x, got) in operands.iter().zip(run(&body, out, &operands)) {
                prop_assert_eq!(got, element(*x, n - 1, ty), "{} of {:x?}", body, x);
            }
        }
    }

    #[test]
    fn stores(operands in integers()) {
        for mnemonic in mnemonics("st") {
            let ty = mnemonic.rsplit('.').next().expect("a type");
            let (bits, file, _) = kind(ty);
            let n = count(&mnemonic);
            if n * bits > 256 || n == 8 && bits != 32 {
                continue;
            }
            let (lines, address, space) = place(&mnemonic);
            let fill = FILL.replace("SPACE", space).replace("AT", address);
            let source = vector(file, n, &format!("%{file}1"));
            let others: String = [4, 5, 6, 7, 10, 11, 12].iter().take(n as usize - 1)
                .map(|r| format!("mov.{} %{file}{r}, %{file}2; ", if file == 'f' { "f32".into() } else { format!("b{}", bits.max(16)) }))
                .collect();
            let unsigned = format!("u{bits}");
            let widen = match file {
                'h' => "cvt.u64.u16 %q8, %h8;",
                'q' => "",
                _ => "cvt.u64.u32 %q8, %r8;",
            };
            let read = if file == 'f' { 'r' } else { file };
            let body = format!(
                "mov.b64 %q9, 0; {lines} {fill} {others} {mnemonic} [{address}], {source}{};
                 ld.{space}.{unsigned} %{read}8, [{address}+{}]; {widen}",
                hint(&mnemonic), (n - 1) * bits / 8
            );
            for (x, got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                prop_assert_eq!(got, x[1] << (64 - bits) >> (64 - bits), "{} of {:x?}", body, x);
            }
        }
    }

    /// Qualifiers change neither what is left in memory nor what is returned.
    #[test]
    fn qualified_atomics(operands in integers()) {
        let low = |x: u64| x & 0xffff_ffff;
        type Operation = (&'static str, &'static str, fn(u64, u64) -> u64);
        let operations: [Operation; 6] = [
            ("add", "u32", |a, b| a.wrapping_add(b)),
            ("and", "b32", |a, b| a & b),
            ("min", "u32", |a, b| a.min(b)),
            ("inc", "u32", |a, b| if a >= b { 0 } else { a + 1 }),
            ("exch", "b32", |_, b| b),
            ("cas", "b16", |a, _| a),
        ];
        let qualifiers = [
            ".relaxed.cta.shared", ".acquire.cluster.shared::cta", ".release.gpu.shared::cluster",
            ".acq_rel.sys.global", ".relaxed.gpu", "", ".L2::cache_hint",
        ];
        for (name, ty, function) in operations {
            for qualifier in qualifiers {
                let (lines, address, space) = place(qualifier);
                let with_hint = qualifier.contains("cache_hint");
                if with_hint && matches!(name, "exch" | "cas") {
                    continue;
                }
                let fill = FILL.replace("SPACE", space).replace("AT", address);
                let fill = if space == "global" { String::new() } else { fill };
                let (file, third) = if name == "cas" { ('h', ", %h1") } else { ('r', "") };
                for opcode in ["atom", "red"] {
                    if opcode == "red" && matches!(name, "exch" | "cas") {
                        continue;
                    }
                    let dest = if opcode == "atom" { format!("%{file}8, ") } else { String::new() };
                    let body = format!(
                        "mov.b64 %q9, 0; mov.b32 %r8, 0; {lines} {fill}
                         {opcode}{qualifier}.{name}.{ty} {dest}[{address}], %{file}1{third}{};
                         ld.{space}.b32 %r9, [{address}]; mov.b64 %q8, {{%r8, %r9}};",
                        hint(qualifier)
                    );
                    for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                        let old = if opcode == "atom" && name != "cas" { low(*a) } else { 0 };
                        let new = low(function(low(*a), low(*b)));
                        prop_assert_eq!(got, new << 32 | old, "{} of {:#x}, {:#x}", body, a, b);
                    }
                }
            }
        }
    }

    #[test]
    fn half_atomics(operands in pairs()) {
        let add = |format: Format, a: u64, b: u64| {
            format.encode(sum(format.decode(a), format.decode(b), Mode::Nearest), Mode::Nearest)
        };
        for (format, ty) in [(F16, "f16"), (BF16, "bf16"), (F16, "f16x2"), (BF16, "bf16x2")] {
            let two = ty.ends_with("x2");
            let file = if two { 'r' } else { 'h' };
            for qualifier in ["", ".relaxed.cta.shared", ".acquire.cluster.shared::cta", ".release.gpu.shared::cluster", ".acq_rel.sys.global", ".L2::cache_hint"] {
                let (lines, address, space) = place(qualifier);
                let fill = FILL.replace("SPACE", space).replace("AT", address);
                let fill = if space == "global" { String::new() } else { fill };
                for (opcode, dest) in [("atom", format!("%{file}9, ")), ("red", String::new())] {
                    let body = format!(
                        "mov.b64 %q9, 0; {lines} {fill} {opcode}{qualifier}.add.noftz.{ty} {dest}[{address}], %{file}1{};
                         ld.{space}.b32 %r8, [{address}];", hint(qualifier)
                    );
                    for ([a, b, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                        for shift in [0, 16] {
                            let (a, b, got) = (a >> shift & 0xffff, b >> shift & 0xffff, got >> shift & 0xffff);
                            let expected = if shift == 0 || two { add(format, a, b) } else { a };
                            let both_nan = format.is_nan(got) && format.is_nan(expected);
                            prop_assert!(got == expected || both_nan, "{body} of {a:#x}, {b:#x} is {got:#x}");
                        }
                    }
                }
            }
        }
    }

    /// Hints and fences change nothing that a single thread can see.
    #[test]
    fn hints(operands in integers()) {
        let with_address = |mnemonic: String| format!("{mnemonic} [%in];");
        let mut bodies: Vec<String> =
            ["prefetch", "prefetchu"].into_iter().flat_map(mnemonics)
                .filter(|mnemonic| !mnemonic.contains("local")).map(with_address).collect();
        bodies.extend(mnemonics("applypriority").into_iter().map(|mnemonic| format!("{mnemonic} [%in], 128;")));
        bodies.extend(["membar", "fence", "griddepcontrol"].into_iter().flat_map(mnemonics).map(|mnemonic| format!("{mnemonic};")));
        bodies.extend(mnemonics("pmevent").into_iter().map(|mnemonic| format!("{mnemonic} 1;")));
        bodies.push("nanosleep.u32 20;".to_owned());
        bodies.push(".local .align 8 .b8 stack[8]; mov.b32 %r31, stack; prefetch.local.L1 [%r31];".to_owned());
        for kept in mnemonics("createpolicy") {
            let sources = match kept.as_str() {
                name if name.contains("range") => "[%in], 16, 32",
                name if name.contains("cvt") => "0",
                _ => "1.0",
            };
            bodies.push(format!("{kept} %q9, {sources}; ld.global.L2::cache_hint.b64 %q0, [%in], %q9;"));
        }
        for body in bodies {
            let body = format!("{body} mov.b64 %q8, %q0;");
            for ([a, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                prop_assert_eq!(got, *a, "{}", body);
            }
        }
    }
}
