//! What an instruction does, decoded once at load.
//!
//! Arithmetic is a function over all 32 lanes, which the compiler vectorises; only results of active
//! lanes are kept. Registers are slots of a warp's files: `W` holds 32 bits a lane (and everything
//! narrower), `D` 64, `P` one bit a lane in one word. Constants are slots too.

use super::fragment::Fragment;

/// The 32 lanes of a `W` register.
pub(crate) type Lanes = [u32; 32];
/// The 32 lanes of a `D` register.
pub(crate) type Wide = [u64; 32];
/// Index into a register file.
pub(crate) type Slot = u32;

/// A register of either width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reg {
    W(Slot),
    D(Slot),
}

/// State spaces that an access can be decoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) base: Option<Reg>,
    pub(crate) offset: i64,
}

/// A load or store of one to eight elements.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Bytes of one element.
    pub(crate) width: usize,
    /// Sign extension of elements narrower than their register.
    pub(crate) signed: bool,
    /// One for each element; `None` is `_`.
    pub(crate) regs: Vec<Option<Reg>>,
    /// What order it keeps with accesses of other warps.
    pub(crate) order: Order,
}

/// How an access is ordered against those of other warps (PTX ISA, "Memory Consistency Model").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// By barriers alone: a race otherwise.
    Weak,
    /// It does not race with others like it.
    Relaxed(Scope),
    Acquire(Scope),
    Release(Scope),
    AcquireRelease(Scope),
}

/// Whose accesses an ordered access is ordered against (PTX ISA, "Scope").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those of its block.
    Block,
    /// Those of all blocks.
    Device,
}

/// `atom` and `red`.
pub(crate) struct Atomic {
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Bytes.
    pub(crate) width: usize,
    /// `None` where nothing is returned.
    pub(crate) dest: Option<Reg>,
    pub(crate) operand: Reg,
    /// The new value of `cas`.
    pub(crate) second: Option<Reg>,
    /// Old value, operand and second operand to new value.
    pub(crate) f: fn(u64, u64, u64) -> u64,
    /// The same where the address is in global memory.
    pub(crate) f_in_global: fn(u64, u64, u64) -> u64,
    pub(crate) order: Order,
}

/// `cp.async` of `size` bytes, of which `source_size` are copied and the rest zero-filled.
#[derive(Debug, Clone)]
pub(crate) struct CopyAsync {
    pub(crate) dst: Address,
    pub(crate) src: Address,
    pub(crate) size: usize,
    pub(crate) source_size: Option<Slot>,
    /// `ignore-src`: zero-fills all when the predicate holds.
    pub(crate) ignore: Option<(Slot, bool)>,
}

/// `ldmatrix` of 8x8 matrices of 16-bit elements.
#[derive(Debug, Clone)]
pub(crate) struct LoadMatrix {
    pub(crate) dests: Vec<Slot>,
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) transposed: bool,
}

/// `stmatrix`: the reverse of [`LoadMatrix`].
#[derive(Debug, Clone)]
pub(crate) struct StoreMatrix {
    pub(crate) sources: Vec<Slot>,
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) transposed: bool,
}

/// What the elements of `a` and `b` are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    /// Signs of a and b.
    Int8([bool; 2]),
}

impl Element {
    /// Elements in a register.
    pub(crate) fn packed(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 1,
            Self::Int8(_) => 4,
        }
    }
}

/// `mma.m16n8kK` with `a` row-major and `b` column-major.
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub(crate) d: Vec<Slot>,
    pub(crate) a: Vec<Slot>,
    pub(crate) b: Vec<Slot>,
    pub(crate) c: Vec<Slot>,
    pub(crate) element: Element,
    /// The accumulators are f16 pairs, by d and c, instead of words.
    pub(crate) half: [bool; 2],
    /// `.satfinite` of integers.
    pub(crate) saturate: bool,
}

/// `wmma.load` and `wmma.store`: a matrix between registers and memory.
#[derive(Debug, Clone)]
pub(crate) struct FragmentAccess {
    pub(crate) fragment: Fragment,
    pub(crate) slots: Vec<Slot>,
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Elements from one row, or column, to the next.
    pub(crate) stride: Slot,
}

/// Which lane `shfl` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `shfl.sync`.
#[derive(Debug, Clone)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) dest: Option<Slot>,
    pub(crate) in_range: Option<Slot>,
    pub(crate) value: Slot,
    pub(crate) lane: Slot,
    pub(crate) clamp: Slot,
    pub(crate) members: Slot,
}

/// `vote.sync`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uni,
    Ballot,
}

/// Logic with a predicate, which may be negated.
pub(crate) type Combine = (fn(u32, u32) -> u32, Slot, bool);

/// Where the result of a comparison goes.
#[derive(Debug, Clone)]
pub(crate) struct SetTo {
    pub(crate) dest: Option<Slot>,
    /// `set` writes these bits where the comparison holds, and zeros elsewhere.
    pub(crate) value: Option<(Slot, u32)>,
    /// `p|q`: q gets the comparison negated before it is combined.
    pub(crate) complement: Option<Slot>,
    /// `.and`, `.or`, `.xor` with a predicate, which may be negated.
    pub(crate) combine: Option<Combine>,
}

/// `lop3.or`, `lop3.and`: the predicate says where the result is not zero.
#[derive(Debug, Clone)]
pub(crate) struct Lop3Set {
    pub(crate) table: u8,
    pub(crate) dest: Option<Slot>,
    pub(crate) sources: [Slot; 3],
    pub(crate) is_set: SetTo,
}

/// Where the results of comparing the halves of two pairs go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HalvesTo {
    /// `p|q`: of the low halves, of the high halves.
    Predicates([Option<Slot>; 2]),
    /// These bits in each half for which the comparison holds.
    Word(Slot, u32),
}

/// A comparison of both halves of two pairs.
pub(crate) struct SetHalves {
    /// Of the lower halves of words.
    pub(crate) compare: fn(&Lanes, &Lanes) -> u32,
    pub(crate) sources: [Slot; 2],
    pub(crate) to: HalvesTo,
    /// `.and`, `.or`, `.xor` with a predicate, which may be negated.
    pub(crate) combine: Option<Combine>,
}

/// Arithmetic that reads (`addc`) or writes (`.cc`) the carry of its lane.
pub(crate) struct Carry {
    /// Sources and carry to result and carry.
    pub(crate) f: fn(&[u64; 3], bool) -> (u64, bool),
    pub(crate) dest: Reg,
    pub(crate) sources: Vec<Reg>,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

/// `bar` and `barrier`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Barrier {
    pub(crate) id: Slot,
    pub(crate) count: Option<Slot>,
    pub(crate) kind: BarrierKind,
    /// All lanes of a warp come to the same instruction together.
    pub(crate) aligned: bool,
}

/// What a barrier does besides counting arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    /// Combines a predicate, which may be negated, of all threads.
    Reduce(Reduction, Reg2, (Slot, bool)),
}

/// How `bar.red` combines predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    And,
    Or,
    Count,
}

/// Functions that the CUDA runtime provides to kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// `vprintf(format, arguments) -> count`
    Printf,
    /// `__assertfail(message, file, line, function, character size)`
    AssertFail,
}

/// A call of a [`System`] function: where in local memory its arguments are and the result goes.
#[derive(Debug, Clone)]
pub(crate) struct SystemCall {
    pub(crate) function: System,
    pub(crate) arguments: Vec<u64>,
    pub(crate) result: Option<u64>,
}

/// What is done to an `mbarrier` object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MBarrierKind {
    Init,
    Invalidate,
    /// Arrives and, without `.noComplete`, may complete the phase.
    Arrive {
        drop: bool,
        no_complete: bool,
    },
    /// By the state that an arrival returned.
    Test,
    /// By the parity of the phase.
    TestParity,
    /// `cp.async.mbarrier.arrive`; `.noinc` counts among the expected arrivals.
    AfterCopies {
        no_increment: bool,
    },
}

/// `mbarrier` instructions.
#[derive(Debug, Clone)]
pub(crate) struct MBarrier {
    pub(crate) kind: MBarrierKind,
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// The state that an arrival returns, or the predicate of a test.
    pub(crate) dest: Option<Reg>,
    pub(crate) holds: Option<Slot>,
    /// Count, state or parity.
    pub(crate) operand: Option<Reg>,
}

pub(crate) type W1 = fn(&Lanes) -> Lanes;
pub(crate) type W2 = fn(&Lanes, &Lanes) -> Lanes;
pub(crate) type W3 = fn(&Lanes, &Lanes, &Lanes) -> Lanes;
pub(crate) type D1 = fn(&Wide) -> Wide;
pub(crate) type D2 = fn(&Wide, &Wide) -> Wide;
pub(crate) type D3 = fn(&Wide, &Wide, &Wide) -> Wide;
/// A function of one lane's operands, for what is not worth loops of its own.
pub(crate) type Scalar = Box<dyn Fn(&[u64; 4]) -> u64 + Send + Sync>;

/// One decoded instruction. Destinations come before sources.
pub(crate) enum Op {
    W1(W1, Slot, Slot),
    W2(W2, Slot, Slot, Slot),
    W3(W3, Slot, Slot, Slot, Slot),
    D1(D1, Slot, Slot),
    D2(D2, Slot, Slot, Slot),
    D3(D3, Slot, Slot, Slot, Slot),
    /// 64 bits to 32.
    Narrow(fn(&Wide) -> Lanes, Slot, Slot),
    /// 32 bits to 64.
    Widen(fn(&Lanes) -> Wide, Slot, Slot),
    /// Two of 32 bits to one of 64.
    Widen2(fn(&Lanes, &Lanes) -> Wide, Slot, Slot, Slot),
    /// `mad.wide`.
    Widen2Add(fn(&Lanes, &Lanes, &Wide) -> Wide, Slot, Slot, Slot, Slot),
    /// 64-bit shifts by a 32-bit count.
    Shift64(fn(&Wide, &Lanes) -> Wide, Slot, Slot, Slot),
    /// `lop3` with its table.
    Lop3(u8, Slot, [Slot; 3]),
    Lop3Set(Box<Lop3Set>),
    /// Lane by lane with up to four operands.
    Scalar(Scalar, Reg, Vec<Reg>),
    Carry(Box<Carry>),
    SetW(fn(&Lanes, &Lanes) -> u32, Slot, Slot, SetTo),
    SetD(fn(&Wide, &Wide) -> u32, Slot, Slot, SetTo),
    SetHalves(Box<SetHalves>),
    SelectW(Slot, Slot, Slot, (Slot, bool)),
    SelectD(Slot, Slot, Slot, (Slot, bool)),
    /// Predicate logic on whole words; sources may be negated.
    P2(fn(u32, u32) -> u32, Slot, (Slot, bool), (Slot, bool)),
    /// A register in parts of this many bits, lowest first.
    Split(Box<[Option<Reg>]>, u32, Reg),
    /// A register from parts of this many bits, lowest first.
    Join(Reg, u32, Box<[Reg]>),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// Waits until at most this many groups are in flight; `None` waits for everything.
    CopyWait(Option<u32>),
    LoadMatrix(Box<LoadMatrix>),
    StoreMatrix(Box<StoreMatrix>),
    /// `movmatrix`: destination, source.
    MoveMatrix(Slot, Slot),
    /// Products that are one instruction: two of a `wmma`.
    Mma(Box<[Mma]>),
    LoadFragment(Box<FragmentAccess>),
    StoreFragment(Box<FragmentAccess>),
    Shuffle(Box<Shuffle>),
    /// Mode, destination, source predicate and whether it is negated, members.
    Vote(VoteMode, Reg2, (Slot, bool), Slot),
    /// `match.any`/`match.all`: destination, its predicate, value, members, all.
    Match(Slot, Option<Slot>, Reg, Slot, bool),
    /// `redux.sync`: function, destination, value, members.
    Redux(fn(u32, u32) -> u32, Slot, Slot, Slot),
    /// `elect.sync`: leader, its predicate, members.
    Elect(Option<Slot>, Option<Slot>, Slot),
    ActiveMask(Slot),
    Barrier(Box<Barrier>),
    /// `bar.warp.sync members`.
    WarpBarrier(Slot),
    MBarrier(Box<MBarrier>),
    /// True when it orders accesses of other blocks too, false for those of its own block alone.
    Fence(bool),
    /// A clock: instructions executed so far stand in for cycles.
    Clock(Reg),
    Branch(u32),
    BranchTable(Slot, Box<[u32]>),
    System(Box<SystemCall>),
    Exit,
    Trap,
    /// Hints: there is nothing to do.
    Nothing,
}

/// A destination that is a predicate or a 32-bit register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reg2 {
    P(Slot),
    W(Slot),
}

/// Classes of instructions for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Integer,
    Float,
    Convert,
    Move,
    Memory,
    Tensor,
    Warp,
    Barrier,
    Control,
}

/// Floating-point types of operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatType {
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

/// A floating-point operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FloatOperand {
    pub(crate) reg: Reg,
    pub(crate) ty: FloatType,
}

/// How far from the exact result an approximate instruction may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// In units of the result's last place.
    Ulps(f64),
    Relative(f64),
    Absolute(f64),
    /// That of `lg2`.
    Logarithm,
    /// That of `sin` and `cos`.
    Angle,
}

/// An instruction whose result hardware only approximates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Approximate {
    /// The exact result of up to two operands.
    pub(crate) function: fn(f64, f64) -> f64,
    pub(crate) bound: Bound,
}

/// What is known of a floating-point instruction beyond what it computes.
#[derive(Debug, Clone)]
pub(crate) struct Numeric {
    pub(crate) dest: FloatOperand,
    pub(crate) sources: Vec<FloatOperand>,
    pub(crate) approximate: Option<Approximate>,
    /// `.ftz`: subnormal operands count as zeros.
    pub(crate) flushes: bool,
}

/// A decoded instruction with its guard.
pub(crate) struct Decoded {
    pub(crate) op: Op,
    /// Predicate and whether it is negated.
    pub(crate) guard: Option<(Slot, bool)>,
    pub(crate) class: Class,
    /// Of floating-point instructions.
    pub(crate) numeric: Option<Box<Numeric>>,
}

/// A value a slot is set to when a warp starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Initial {
    /// The same in every lane.
    Value(u64),
    /// Address of a module variable, by index, plus an offset.
    GlobalAddress(u32, i64),
    /// A special register.
    Special(Special),
    /// No value: where results go that the program discards.
    Sink,
}

/// Special registers that are constant while a warp runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    Constant(u32),
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSharedSize,
    TotalSharedSize,
    /// The lower (0) or upper half of the address of a cooperative launch's workspace.
    Workspace(u8),
}
