//! Loops over the lanes of a warp, compiled for the vector instructions that the CPU has.

pub(crate) use pulp::NullaryFnOnce as Loops;

/// Runs `loops` as compiled for the best instruction set of this CPU that there is code for: AVX2 with
/// FMA on x86-64, NEON on aarch64, else the baseline. Closures are for small loops: large ones may
/// stay functions of their own, without the instructions. Types whose `call` is `#[inline(always)]`
/// cannot.
#[inline(always)]
pub(crate) fn vectorized<L: Loops>(loops: L) -> L::Output {
    pulp::Arch::new().dispatch(loops)
}

/// A function of each lane of one source.
struct Map1<'a, A, F>(&'a [A; 32], F);
/// A function of each lane of two sources.
struct Map2<'a, A, B, F>(&'a [A; 32], &'a [B; 32], F);
/// A function of each lane of three sources.
struct Map3<'a, A, B, C, F>(&'a [A; 32], &'a [B; 32], &'a [C; 32], F);

impl<A: Copy, R: Copy + Default, F: Fn(A) -> R> Loops for Map1<'_, A, F> {
    type Output = [R; 32];

    #[inline(always)]
    fn call(self) -> [R; 32] {
        let mut result = [R::default(); 32];
        for (lane, result) in result.iter_mut().enumerate() {
            *result = (self.1)(self.0[lane]);
        }
        result
    }
}

impl<A: Copy, B: Copy, R: Copy + Default, F: Fn(A, B) -> R> Loops for Map2<'_, A, B, F> {
    type Output = [R; 32];

    #[inline(always)]
    fn call(self) -> [R; 32] {
        let mut result = [R::default(); 32];
        for (lane, result) in result.iter_mut().enumerate() {
            *result = (self.2)(self.0[lane], self.1[lane]);
        }
        result
    }
}

impl<A: Copy, B: Copy, C: Copy, R: Copy + Default, F: Fn(A, B, C) -> R> Loops
    for Map3<'_, A, B, C, F>
{
    type Output = [R; 32];

    #[inline(always)]
    fn call(self) -> [R; 32] {
        let mut result = [R::default(); 32];
        for (lane, result) in result.iter_mut().enumerate() {
            *result = (self.3)(self.0[lane], self.1[lane], self.2[lane]);
        }
        result
    }
}

/// Applies a function to every lane.
#[inline(always)]
pub(crate) fn map1<A: Copy, R: Copy + Default>(a: &[A; 32], f: impl Fn(A) -> R) -> [R; 32] {
    vectorized(Map1(a, f))
}

/// As [`map1`] with two sources.
#[inline(always)]
pub(crate) fn map2<A: Copy, B: Copy, R: Copy + Default>(
    a: &[A; 32],
    b: &[B; 32],
    f: impl Fn(A, B) -> R,
) -> [R; 32] {
    vectorized(Map2(a, b, f))
}

/// As [`map1`] with three sources.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, R: Copy + Default>(
    a: &[A; 32],
    b: &[B; 32],
    c: &[C; 32],
    f: impl Fn(A, B, C) -> R,
) -> [R; 32] {
    vectorized(Map3(a, b, c, f))
}

/// A function of all lanes from one of a single lane: `each1!(|a| a + 1)`.
macro_rules! each1 {
    (|$a:ident| $e:expr) => {
        |a| $crate::program::simd::map1(a, |$a| $e)
    };
}
/// As `each1` with two sources.
macro_rules! each2 {
    (|$a:ident, $b:ident| $e:expr) => {
        |a, b| $crate::program::simd::map2(a, b, |$a, $b| $e)
    };
}
/// As `each1` with three sources.
macro_rules! each3 {
    (|$a:ident, $b:ident, $c:ident| $e:expr) => {
        |a, b, c| $crate::program::simd::map3(a, b, c, |$a, $b, $c| $e)
    };
}
/// A comparison of every lane, as a mask.
macro_rules! mask2 {
    (|$a:ident, $b:ident| $e:expr) => {
        |a, b| $crate::program::simd::mask_of(&$crate::program::simd::map2(a, b, |$a, $b| $e))
    };
}
pub(crate) use {each1, each2, each3, mask2};

/// One bit for every lane.
#[inline(always)]
pub(crate) fn mask_of(holds: &[bool; 32]) -> u32 {
    let mut mask = 0;
    for (lane, &holds) in holds.iter().enumerate() {
        mask |= u32::from(holds) << lane;
    }
    mask
}
