//! The syntax tree of a PTX module, with every name already resolved.
//!
//! Scopes are gone: each register, label and variable of a function is one entry of a table and is
//! referred to by its index. Mnemonics and modifiers are kept as text, so that the parser accepts
//! the whole ISA and only the decoder decides what can be executed.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A parsed module (PTX ISA, "Directives").
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// First `.target`, for instance `sm_80`.
    pub target: String,
    /// `.address_size`: 32 or 64.
    pub address_size: u32,
    /// `.file` table: index to path.
    pub files: BTreeMap<u32, Arc<str>>,
    /// Where functions were inlined ([`Loc::caller`]).
    pub callers: Vec<Loc>,
    /// Module-scope variables (`.global`, `.const`, `.shared`).
    pub variables: Vec<Variable>,
    /// Functions in source order; a forward declaration with a later body appears once.
    pub functions: Vec<Function>,
}

/// State spaces (PTX ISA, "State Spaces").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`
    Reg,
    /// `.const`
    Const,
    /// `.global`
    Global,
    /// `.local`
    Local,
    /// `.param`
    Param,
    /// `.shared`
    Shared,
}

/// Fundamental types (PTX ISA, "Fundamental Types"), `.pred` and opaque types included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    F32,
    F64,
    Bf16,
    Bf16x2,
    Opaque,
}

/// A variable in any space but `.reg`.
#[derive(Debug, Clone, PartialEq)]
pub struct Variable {
    /// Name as written (scoped names may repeat within a function).
    pub name: Arc<str>,
    /// State space.
    pub space: Space,
    /// Element type.
    pub ty: Type,
    /// Alignment in bytes: as declared, else natural.
    pub align: u64,
    /// Size in bytes; `None` for an unsized array (`extern .shared .b8 smem[]`).
    pub size: Option<u64>,
    /// Initial bytes and the addresses to patch into them; `None` when not initialised.
    pub init: Option<Initializer>,
    /// `.extern`.
    pub is_extern: bool,
    /// Line in the PTX text.
    pub line: u32,
}

/// Initial contents of a variable.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Initializer {
    /// As many bytes as the variable has, zero where a relocation goes.
    pub bytes: Vec<u8>,
    /// Addresses to store: (byte offset, symbol, addend, true when wrapped in `generic()`). Each
    /// fills an element of the variable, or eight bytes if the elements are bytes.
    pub relocations: Vec<(u64, Symbol, i64, bool)>,
}

/// `.entry` or `.func`.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Name.
    pub name: Arc<str>,
    /// True for `.entry`.
    pub is_entry: bool,
    /// Parameters in order (`.param`, or `.reg` for old-style functions).
    pub params: Vec<Variable>,
    /// Return parameters of a `.func`.
    pub returns: Vec<Variable>,
    /// `.maxntid`, absent dimensions 1.
    pub maxntid: Option<[u32; 3]>,
    /// `.reqntid`.
    pub reqntid: Option<[u32; 3]>,
    /// `.minnctapersm`.
    pub minnctapersm: Option<u32>,
    /// `.maxnreg`.
    pub maxnreg: Option<u32>,
    /// The body; `None` for a declaration (for instance `vprintf`).
    pub body: Option<Body>,
    /// Line in the PTX text.
    pub line: u32,
}

/// A function body with its scopes flattened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Body {
    /// Every register of every scope; those that are parameters, then returns, come first.
    pub registers: Vec<Register>,
    /// `.local`, `.shared`, `.param` (call arguments) variables of every scope.
    pub variables: Vec<Variable>,
    /// Every label of every scope.
    pub labels: Vec<Label>,
    /// `.branchtargets` / `.calltargets` lists by label: what `brx.idx` and `call` may reach.
    pub targets: BTreeMap<LabelId, Vec<Symbol>>,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
}

/// Index into [`Body::registers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegId(pub u32);

/// Index into [`Body::labels`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelId(pub u32);

/// A declared register.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// Name as written, for instance `%r12`.
    pub name: Arc<str>,
    /// Type.
    pub ty: Type,
}

/// A label.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Name as written.
    pub name: Arc<str>,
    /// Index of the instruction that follows it (may be the number of instructions).
    pub target: u32,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// `@p` or `@!p`.
    pub guard: Option<Guard>,
    /// Base mnemonic, for instance `mma`, `cp`, `ld`.
    pub opcode: Arc<str>,
    /// Modifiers in order without their dots, for instance `["async", "cg", "shared", "global"]`;
    /// `::` stays inside a modifier (`L2::128B`, `shared::cta`).
    pub modifiers: Vec<Arc<str>>,
    /// Operands in order. `d|p` is one [`Operand::Pair`].
    pub operands: Vec<Operand>,
    /// Line in the PTX text.
    pub line: u32,
    /// Source position in force (`.loc`).
    pub loc: Option<Loc>,
}

/// A guard predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Predicate register.
    pub reg: RegId,
    /// `@!p`.
    pub negated: bool,
}

/// `.loc file line column, inlined_at …`: the innermost position, and where its function was inlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Loc {
    /// Index into [`Module::files`].
    pub file: u32,
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// Index into [`Module::callers`], for code of an inlined function.
    pub caller: Option<u32>,
}

/// What a name that is no register, label or special register refers to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// Index into [`Body::variables`].
    Local(u32),
    /// Index into [`Function::params`].
    Param(u32),
    /// Index into [`Function::returns`].
    Return(u32),
    /// Index into [`Module::variables`].
    Module(u32),
    /// Index into [`Module::functions`].
    Function(u32),
    /// A label of this function.
    Label(LabelId),
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register.
    Register(RegId),
    /// `!p`.
    NotRegister(RegId),
    /// `r.b0`, `r.h1`, `-r`, `-r.b3`: the part of a register that a video instruction takes, or
    /// its negative, as written but for the name.
    Part(RegId, Arc<str>),
    /// Integer literal, two's complement (`-1` is `u64::MAX`).
    Int(u64),
    /// `0fXXXXXXXX`: bits.
    F32(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal literal: bits.
    F64(u64),
    /// `%tid.x`, `%laneid`, `%ctaid.y`, `WARP_SZ`…: as written.
    Special(Arc<str>),
    /// The address of a symbol plus an offset, without brackets (`mov.u64 %rd, smem;`, `call target`).
    Symbol(Symbol, i64),
    /// `[base + offset]`.
    Address(AddressBase, i64),
    /// `{a, b, c, d}`.
    Vector(Vec<Operand>),
    /// `d|p`.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a `call`.
    List(Vec<Operand>),
    /// `_`.
    Sink,
}

/// Base of an address operand.
#[derive(Debug, Clone, PartialEq)]
pub enum AddressBase {
    /// A register.
    Register(RegId),
    /// A variable or parameter.
    Symbol(Symbol),
    /// An absolute address.
    Absolute,
    /// `[tensorMap, {c0, c1}]` and other bracketed lists.
    Tuple(Vec<Operand>),
}
