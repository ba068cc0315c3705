//! Runs a few lines of PTX on every thread of a block and collects what each computed.

use cusim::arch::Arch;
use cusim::exec::{self, LaunchConfig, MmaMode, Options};
use cusim::fault::Fault;
use cusim::memory::GlobalMemory;
use cusim::program::{Program, opcodes};
use cusim::ptx;
use proptest::prelude::*;

/// The operands of one thread, as bits.
pub type Operands = [u64; 4];

/// Which register holds the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// `%h8`
    H,
    /// `%r8`
    R,
    /// `%q8`
    Q,
    /// `%f8`
    F,
    /// `%d8`
    D,
    /// `%p4`
    P,
}

impl Out {
    /// The lines that widen the result into `%q8`.
    fn widen(self) -> &'static str {
        match self {
            Out::H => "mov.b32 %r8, {%h8, %h9}; cvt.u64.u32 %q8, %r8; and.b64 %q8, %q8, 0xffff;",
            Out::R => "cvt.u64.u32 %q8, %r8;",
            Out::Q => "",
            Out::F => "mov.b32 %r8, %f8; cvt.u64.u32 %q8, %r8;",
            Out::D => "mov.b64 %q8, %d8;",
            Out::P => "selp.b64 %q8, 1, 0, %p4;",
        }
    }
}

/// The kernel around `body`: operand `n` of the thread is in `%qn`, its low bits are in `%rn`, `%hn`,
/// `%fn` and `%dn`, its lowest bit is in `%pn`; `%r30` is the thread. 16 KiB of shared memory are at `tile`, and the
/// constant [`FIXED`] is at `fixed`. `functions` stand before the kernel.
fn kernel(functions: &str, body: &str, out: Out) -> String {
    let loads: String = (0..4)
        .map(|n| {
            format!(
                "ld.global.b64 %q{n}, [%in+{}]; mov.b64 %d{n}, %q{n}; cvt.u32.u64 %r{n}, %q{n}; \
                 mov.b32 %f{n}, %r{n}; mov.b32 {{%h{n}, %h9}}, %r{n}; \
                 and.b32 %r8, %r{n}, 1; setp.ne.b32 %p{n}, %r8, 0;\n",
                8 * n
            )
        })
        .collect();
    let widen = out.widen();
    format!(
        ".version 8.7\n.target sm_80\n.address_size 64\n\
         .const .align 8 .b64 fixed = {FIXED};\n{functions}\
         .visible .entry k(.param .u64 input, .param .u64 output)\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<16>; .reg .b32 %r<64>; .reg .f32 %f<16>; .reg .f64 %d<16>;\n\
         .reg .b64 %q<32>; .reg .b64 %in; .reg .b64 %out;\n\
         .shared .align 128 .b8 tile[16384];\n\
         ld.param.u64 %in, [input]; ld.param.u64 %out, [output];\n\
         mov.u32 %r30, %tid.x;\n\
         mad.wide.u32 %in, %r30, 32, %in; mad.wide.u32 %out, %r30, 8, %out;\n\
         {loads}\
         mov.b32 %r8, 0; mov.b16 %h9, 0; mov.b64 %q8, 0;\n\
         {body}\n\
         {widen}\n\
         st.global.b64 [%out], %q8;\n\
         ret;\n}}\n"
    )
}

/// Eight bytes of constant memory.
pub const FIXED: u64 = 0x0123_4567_89ab_cdef;

/// Runs `body` once for each element of `operands`, 1024 at most.
pub fn try_run(body: &str, out: Out, operands: &[Operands]) -> Result<Vec<u64>, Box<Fault>> {
    try_run_with("", body, out, operands)
}

/// [`try_run`] of a body that calls functions.
pub fn try_run_with(
    functions: &str,
    body: &str,
    out: Out,
    operands: &[Operands],
) -> Result<Vec<u64>, Box<Fault>> {
    crate::coverage::record(functions);
    crate::coverage::record(body);
    if crate::hardware::is_asked_for() {
        let (text, results) = try_run_as(MmaMode::Hopper, functions, body, out, operands)?;
        crate::hardware::compare(&text, body, out, operands, &results);
    }
    let (_, results) = try_run_as(MmaMode::default(), functions, body, out, operands)?;
    Ok(results)
}

/// The same with tensor cores of some kind; also returns the text of the kernel.
pub fn try_run_as(
    mma: MmaMode,
    functions: &str,
    body: &str,
    out: Out,
    operands: &[Operands],
) -> Result<(String, Vec<u64>), Box<Fault>> {
    let text = kernel(functions, body, out);
    let module = ptx::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let program = Program::load(&module).unwrap_or_else(|error| panic!("{error}\n{body}"));
    let mut memory = GlobalMemory::new(1 << 24);
    let count = operands.len();
    let input = memory.alloc(32 * count as u64, "input").expect("memory");
    let output = memory.alloc(8 * count as u64, "output").expect("memory");
    let fixed = memory.alloc(8, "fixed").expect("memory");
    let written = memory.write(fixed, &FIXED.to_le_bytes());
    written.expect("the constant fits");
    let bytes: Vec<u8> = operands
        .iter()
        .flatten()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    memory.write(input, &bytes).expect("the operands fit");
    let mut params = input.to_le_bytes().to_vec();
    params.extend(output.to_le_bytes());
    let config = LaunchConfig {
        grid: [1, 1, 1],
        block: [count as u32, 1, 1],
        dynamic_shared: 0,
        params: &params,
        global_addresses: &[fixed],
        arch: Arch::of(80).expect("sm_80 is modelled"),
        options: &Options {
            mma,
            ..Options::default()
        },
        cooperative: false,
        unordered: &[],
    };
    let kernel = program.kernel("k").expect("the kernel is there");
    exec::launch(&program, kernel, &mut memory, &config)?;
    let mut results = vec![0; 8 * count];
    memory.read(output, &mut results).expect("results");
    let results = results
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        .collect();
    Ok((text, results))
}

/// [`try_run`] for bodies that must not fault.
pub fn run(body: &str, out: Out, operands: &[Operands]) -> Vec<u64> {
    try_run(body, out, operands).unwrap_or_else(|fault| panic!("{fault}\n{body}"))
}

/// One instruction, where its result is, and what it must be.
pub struct Form<F = fn(Operands) -> u64> {
    /// The instruction, with `%x0` to `%x3` as operands and `%x8` (or `%p4`) as destination.
    pub body: &'static str,
    /// Where the result is.
    pub out: Out,
    /// The result by another way.
    pub expected: F,
}

/// Shorthand for a [`Form`].
pub const fn form(body: &'static str, out: Out, expected: fn(Operands) -> u64) -> Form {
    Form {
        body,
        out,
        expected,
    }
}

/// Whether two results agree: equal bits, or both NaN where the result is a float.
pub fn agrees(out: Out, got: u64, expected: u64) -> bool {
    let nan = |bits: u64| match out {
        Out::F => f32::from_bits(bits as u32).is_nan(),
        Out::D => f64::from_bits(bits).is_nan(),
        _ => false,
    };
    got == expected || nan(got) && nan(expected)
}

/// Checks every form on every element of `operands`.
pub fn check(forms: &[Form], operands: &[Operands]) {
    for form in forms {
        let results = run(form.body, form.out, operands);
        for (operands, got) in operands.iter().zip(results) {
            let expected = (form.expected)(*operands);
            assert!(
                agrees(form.out, got, expected),
                "{} of {operands:x?} is {got:#x}, not {expected:#x}",
                form.body
            );
        }
    }
}

/// Values where integer arithmetic changes its mind.
const INTEGERS: [u64; 16] = [
    0,
    1,
    2,
    31,
    32,
    33,
    63,
    64,
    0x7f,
    0x7fff,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Floats where rounding, range or NaN matters; the same in each format that fits.
const FLOATS: [f64; 18] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    65504.0,
    65520.0,
    1e-8,
    6e-8,
    1e-40,
    3e38,
    1e300,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<i32>().prop_map(|x| i64::from(x) as u64),
        (0u64..64),
        proptest::sample::select(&INTEGERS[..]),
    ]
}

fn float32() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u32>().prop_map(u64::from),
        (-4.0f32..4.0).prop_map(|x| x.to_bits().into()),
        proptest::sample::select(&FLOATS[..]).prop_map(|x| (x as f32).to_bits().into()),
    ]
}

fn float64() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (-4.0f64..4.0).prop_map(f64::to_bits),
        proptest::sample::select(&FLOATS[..]).prop_map(f64::to_bits),
    ]
}

fn half() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u16>().prop_map(u64::from),
        (-4.0f32..4.0).prop_map(|x| ::half::f16::from_f32(x).to_bits().into()),
        (-4.0f32..4.0).prop_map(|x| ::half::bf16::from_f32(x).to_bits().into()),
        proptest::sample::select(&FLOATS[..])
            .prop_map(|x| ::half::f16::from_f64(x).to_bits().into()),
    ]
}

fn all<S: Strategy<Value = u64>>(one: fn() -> S) -> impl Strategy<Value = Vec<Operands>> {
    proptest::collection::vec([one(), one(), one(), one()], 1..200)
}

/// Operands for integer instructions.
pub fn integers() -> impl Strategy<Value = Vec<Operands>> {
    all(integer)
}

/// f32 operands.
pub fn floats32() -> impl Strategy<Value = Vec<Operands>> {
    all(float32)
}

/// f64 operands.
pub fn floats64() -> impl Strategy<Value = Vec<Operands>> {
    all(float64)
}

/// Operands of 16 bits, f16 and bf16 alike.
pub fn halves() -> impl Strategy<Value = Vec<Operands>> {
    all(half)
}

/// Two halves in each operand.
pub fn pairs() -> impl Strategy<Value = Vec<Operands>> {
    let pair = || (half(), half()).prop_map(|(low, high)| high << 16 | low);
    proptest::collection::vec([pair(), pair(), pair(), pair()], 1..200)
}

/// Few cases of many threads each.
pub fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if crate::coverage::is_recording() {
            1
        } else {
            24
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Every mnemonic of an opcode: plain, and with each of its options.
pub fn mnemonics(opcode: &str) -> Vec<String> {
    let forms = opcodes().filter(|form| form.name.split('.').next() == Some(opcode));
    let all = forms.flat_map(|form| {
        let rest = form.name[opcode.len()..].to_owned();
        let options = form.options.into_iter();
        let with: Vec<_> = options
            .map(|option| format!("{opcode}.{option}{rest}"))
            .collect();
        std::iter::once(format!("{opcode}{rest}")).chain(with)
    });
    all.collect()
}
