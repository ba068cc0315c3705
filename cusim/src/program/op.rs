//! What an instruction does, decoded once at load.
//!
//! Arithmetic is a function over all 32 lanes, which the compiler vectorises; only results of active
//! lanes are kept. Registers are slots of a warp's files: `W` holds 32 bits a lane (and everything
//! narrower), `D` 64, `P` one bit a lane in one word. Constants are slots too.

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
}

/// `atom` and `red`.
pub(crate) struct Atomic {
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) width: usize,
    pub(crate) dest: Option<Reg>,
    pub(crate) operand: Reg,
    /// The new value of `cas`.
    pub(crate) second: Option<Reg>,
    /// Old value, operand and second operand to new value.
    pub(crate) f: fn(u64, u64, u64) -> u64,
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
    pub(crate) address: Address,
    pub(crate) transposed: bool,
}

/// `mma.m16n8kK` with `a` row-major and `b` column-major.
#[derive(Debug, Clone)]
pub(crate) struct Mma {
    pub(crate) d: Vec<Slot>,
    pub(crate) a: Vec<Slot>,
    pub(crate) b: Vec<Slot>,
    pub(crate) c: Vec<Slot>,
    pub(crate) bf16: bool,
    /// The accumulators are f16 pairs instead of f32.
    pub(crate) half_accumulator: bool,
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

/// Where the result of a comparison goes.
#[derive(Debug, Clone)]
pub(crate) struct SetTo {
    pub(crate) dest: Option<Slot>,
    /// `p|q`: q gets the comparison negated before it is combined.
    pub(crate) complement: Option<Slot>,
    /// `.and`, `.or`, `.xor` with a predicate, which may be negated.
    pub(crate) combine: Option<(fn(u32, u32) -> u32, Slot, bool)>,
}

/// One decoded instruction.
pub(crate) enum Op {
    W1(fn(&mut Lanes, &Lanes), Slot, Slot),
    W2(fn(&mut Lanes, &Lanes, &Lanes), Slot, Slot, Slot),
    W3(
        fn(&mut Lanes, &Lanes, &Lanes, &Lanes),
        Slot,
        Slot,
        Slot,
        Slot,
    ),
    D1(fn(&mut Wide, &Wide), Slot, Slot),
    D2(fn(&mut Wide, &Wide, &Wide), Slot, Slot, Slot),
    D3(fn(&mut Wide, &Wide, &Wide, &Wide), Slot, Slot, Slot, Slot),
    /// 64 bits to 32.
    Narrow(fn(&mut Lanes, &Wide), Slot, Slot),
    /// 32 bits to 64.
    Widen(fn(&mut Wide, &Lanes), Slot, Slot),
    /// Two of 32 bits to one of 64.
    Widen2(fn(&mut Wide, &Lanes, &Lanes), Slot, Slot, Slot),
    /// `mad.wide`.
    Widen2Add(fn(&mut Wide, &Lanes, &Lanes, &Wide), Slot, Slot, Slot, Slot),
    /// 64-bit shifts by a 32-bit count.
    Shift64(fn(&mut Wide, &Wide, &Lanes), Slot, Slot, Slot),
    /// Lane by lane, for what is not worth a loop of its own.
    Slow1(Box<dyn Fn(u64) -> u64 + Send + Sync>, Reg, Reg),
    /// Lane by lane with up to four operands.
    Slow(Box<dyn Fn(&[u64; 4]) -> u64 + Send + Sync>, Reg, Vec<Reg>),
    SetW(fn(&Lanes, &Lanes) -> u32, Slot, Slot, SetTo),
    SetD(fn(&Wide, &Wide) -> u32, Slot, Slot, SetTo),
    SelectW(Slot, Slot, Slot, (Slot, bool)),
    SelectD(Slot, Slot, Slot, (Slot, bool)),
    /// Predicate logic on whole words.
    P2(fn(u32, u32) -> u32, Slot, Slot, Slot),
    /// `mov {lo, hi}, d`.
    Split64([Option<Slot>; 2], Slot),
    /// `mov {lo, hi}, w`.
    Split32([Option<Slot>; 2], Slot),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    CopyAsync(Box<CopyAsync>),
    CopyCommit,
    /// Waits until at most this many groups are in flight; `None` waits for everything.
    CopyWait(Option<u32>),
    LoadMatrix(Box<LoadMatrix>),
    Mma(Box<Mma>),
    Shuffle(Box<Shuffle>),
    /// Mode, destination, source predicate and whether it is negated, members.
    Vote(VoteMode, Reg2, (Slot, bool), Slot),
    /// `match.any`/`match.all`: destination, its predicate, value, members, all.
    Match(Slot, Option<Slot>, Reg, Slot, bool),
    /// `redux.sync`: function, destination, value, members.
    Redux(fn(u32, u32) -> u32, Slot, Slot, Slot),
    ActiveMask(Slot),
    /// `bar.sync id, count`.
    Barrier {
        id: Slot,
        count: Option<Slot>,
    },
    /// `bar.arrive id, count`.
    Arrive {
        id: Slot,
        count: Slot,
    },
    /// `bar.warp.sync members`.
    WarpBarrier(Slot),
    /// A clock: instructions executed so far stand in for cycles.
    Clock(Reg),
    Branch(u32),
    BranchTable(Slot, Vec<u32>),
    Exit,
    Trap,
    /// Fences and hints: nothing is reordered here, so there is nothing to do.
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

/// A decoded instruction with its guard.
pub(crate) struct Decoded {
    pub(crate) op: Op,
    /// Predicate and whether it is negated.
    pub(crate) guard: Option<(Slot, bool)>,
    pub(crate) class: Class,
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
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSharedSize,
    TotalSharedSize,
}

/// A loop over lanes of one source and result of any width, as a function.
macro_rules! each1 {
    (|$a:ident| $e:expr) => {
        |d, a| {
            for (d, $a) in d.iter_mut().zip(a.iter().copied()) {
                *d = $e;
            }
        }
    };
}
/// As `each1` with two sources.
macro_rules! each2 {
    (|$a:ident, $b:ident| $e:expr) => {
        |d, a, b| {
            for (d, ($a, $b)) in d.iter_mut().zip(a.iter().copied().zip(b.iter().copied())) {
                *d = $e;
            }
        }
    };
}
/// As `each1` with three sources.
macro_rules! each3 {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        |d, a, b, c| {
            let sources = a
                .iter()
                .copied()
                .zip(b.iter().copied())
                .zip(c.iter().copied());
            for (d, (($a, $b), $c)) in d.iter_mut().zip(sources) {
                *d = $e;
            }
        }
    };
}
/// A comparison of every lane, as a mask.
macro_rules! mask2 {
    (|$a:ident, $b:ident| $e:expr) => {
        |a, b| {
            let mut mask = 0u32;
            for (lane, ($a, $b)) in a.iter().copied().zip(b.iter().copied()).enumerate() {
                mask |= u32::from($e) << lane;
            }
            mask
        }
    };
}
pub(crate) use {each1, each2, each3, mask2};
