//! Addresses of every space, what lies there, and calls with their parameters.

use proptest::prelude::*;

use crate::harness::{FIXED, Operands, Out, config, integers, run, try_run_with};

/// The tests of this file.
pub const TESTS: &[fn()] = &[
    generic_addresses,
    parameters_and_constants,
    parameters_of_functions,
    jumps,
    registers_are_no_ones_business,
];

/// A space, its names, what leaves an address in it in `%q10`, and the value there.
type Place = (&'static [&'static str], &'static str, fn(Operands) -> u64);

const PLACES: [Place; 5] = [
    (&["global"], "mov.b64 %q10, %in;", |[a, ..]| a),
    (
        &["shared", "shared::cta", "shared::cluster"],
        "shl.b32 %r31, %r30, 3; mov.b32 %r32, tile; add.u32 %r31, %r31, %r32; st.shared.b64 [%r31], %q1;
         cvt.u64.u32 %q10, %r31;",
        |[_, b, ..]| b,
    ),
    (
        &["local"],
        ".local .align 8 .b64 own; st.local.b64 [own], %q2; mov.b64 %q10, own;",
        |[_, _, c, _]| c,
    ),
    (&["const"], "mov.b64 %q10, fixed;", |_| FIXED),
    // The address of the operands is one itself.
    (&["param", "param::entry"], "mov.b64 %q10, input;", |_| 0),
];

proptest! {
    #![proptest_config(config())]

    /// Generic addresses lead where those of the space do, and `cvta.to` leads back.
    #[test]
    fn generic_addresses(operands in integers()) {
        for (names, address, value) in PLACES {
            for name in names {
                let body = format!(
                    "{address} cvta.{name}.u64 %q11, %q10; cvta.to.{name}.u64 %q12, %q11;
                     ld.b64 %q8, [%q11]; setp.ne.u64 %p5, %q10, %q12; @%p5 mov.b64 %q8, -1;"
                );
                let results = run(&body, Out::Q, &operands);
                for (own, got) in operands.iter().zip(&results) {
                    if name.starts_with("param") {
                        prop_assert!(*got != u64::MAX && *got == results[0], "{}", &body);
                    } else {
                        prop_assert_eq!(*got, value(*own), "{}", &body);
                    }
                }
                for (asked, ..) in PLACES {
                    for asked_name in asked {
                        let body = format!(
                            "{address} cvta.{name}.u64 %q11, %q10; isspacep.{asked_name} %p4, %q11;"
                        );
                        // Constants lie in global memory here, and the ISA leaves open where.
                        if *name == "const" || *asked_name == "const" {
                            run(&body, Out::P, &operands);
                            continue;
                        }
                        // Parameters of kernels are in the window of global memory.
                        let is_inside = *asked_name == "global" && name.starts_with("param");
                        let want = u64::from(names == asked || is_inside);
                        prop_assert!(run(&body, Out::P, &operands).iter().all(|got| *got == want), "{}", &body);
                    }
                }
            }
        }
    }

    #[test]
    fn parameters_and_constants(operands in integers()) {
        for (mnemonic, place) in [
            ("ld.param::entry.b64", "input"),
            ("ld.param.b64", "input"),
        ] {
            // Its operands are where the parameter says.
            let body = format!("{mnemonic} %q9, [{place}]; mad.wide.u32 %q9, %r30, 32, %q9; ld.global.b64 %q8, [%q9+8];");
            for (own, got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                prop_assert_eq!(got, own[1], "{}", &body);
            }
        }
        for (ty, register, mask) in [
            ("b64", "%q8", u64::MAX),
            ("u32", "%r8", 0xffff_ffff),
            ("u8", "%h8", 0xff),
        ] {
            let out = match ty { "b64" => Out::Q, "u32" => Out::R, _ => Out::H };
            let body = format!("ld.const.{ty} {register}, [fixed];");
            prop_assert!(run(&body, out, &operands).iter().all(|got| *got == FIXED & mask), "{}", &body);
        }
    }

    /// Arguments and results of functions, of every width.
    #[test]
    fn parameters_of_functions(operands in integers()) {
        for bits in [8, 16, 32, 64] {
            for name in ["param", "param::func"] {
                let register = match bits { 8 | 16 => "h", 32 => "r", _ => "q" };
                let wide = bits.max(16);
                let function = format!(
                    ".func (.param .b{bits} result) twist(.param .b{bits} x)
                     {{ .reg .b{wide} %x; ld.{name}.b{bits} %x, [x]; not.b{wide} %x, %x;
                        st.{name}.b{bits} [result], %x; ret.uni; }}\n"
                );
                let body = format!(
                    "{{ .param .b{bits} x; .param .b{bits} y; st.{name}.b{bits} [x], %{register}0;
                        call.uni (y), twist, (x); ld.{name}.b{bits} %{register}8, [y]; }}"
                );
                let out = match bits { 8 | 16 => Out::H, 32 => Out::R, _ => Out::Q };
                let results = try_run_with(&function, &body, out, &operands);
                for ([a, ..], got) in operands.iter().zip(results.expect("no fault")) {
                    prop_assert_eq!(got, !a << (64 - bits) >> (64 - bits), "{}", &body);
                }
            }
        }
    }

    /// Threads go where an index sends them, together or not.
    #[test]
    fn jumps(operands in integers(), together in 0u32..3) {
        for (mnemonic, index) in [
            ("brx.idx", "rem.u32 %r31, %r0, 3;".to_owned()),
            ("brx.idx.uni", format!("mov.b32 %r31, {together};")),
        ] {
            let body = format!(
                "targets: .branchtargets first, second, third;
                 {index} {mnemonic} %r31, targets;
                 first: mov.b32 %r8, 10; bra.uni done;
                 second: mov.b32 %r8, 11; bra.uni done;
                 third: mov.b32 %r8, 12;
                 done:"
            );
            for ([a, ..], got) in operands.iter().zip(run(&body, Out::R, &operands)) {
                let index = if mnemonic.ends_with("uni") { together } else { *a as u32 % 3 };
                prop_assert_eq!(got, 10 + u64::from(index), "{}", &body);
            }
        }
    }

    /// How many registers a warp may have is ptxas's business, and no values change.
    #[test]
    fn registers_are_no_ones_business(operands in integers()) {
        for direction in ["inc", "dec"] {
            let body = format!("setmaxnreg.{direction}.sync.aligned.u32 64; mov.b64 %q8, %q0;");
            for ([a, ..], got) in operands.iter().zip(run(&body, Out::Q, &operands)) {
                prop_assert_eq!(got, *a);
            }
        }
    }
}
