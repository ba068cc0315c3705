/*
 * The PTX instructions that CUDA C++ has no exact spelling for, one function each. Every inline asm of
 * the project is in this file. Section numbers are those of the PTX ISA 8.8 manual.
 */
#pragma once

#include <stdint.h>

namespace fflash::ptx {

/* ---- Asynchronous copies: 9.7.9.25.3 Non-bulk copy ---- */

/*
 * Copies `bytes` (0..16) from global to shared memory and zero-fills the rest of the 16. With 0 bytes
 * nothing is read, so `global` may point anywhere. Through L2 only: a tile is read once by a CTA.
 * 9.7.9.25.3.1 cp.async
 */
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void *global, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
                 : "memory");
}

/* Closes the group of all copies that this thread issued since the last one. 9.7.9.25.3.2 cp.async.commit_group */
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/*
 * Waits until at most kPending of this thread's groups are in flight. What arrived is visible to this
 * thread only: a barrier must follow before other threads read it. 9.7.9.25.3.3 cp.async.wait_group
 */
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/* ---- Predicated 16-byte accesses. Written as an `if`, they would become branches that loads cannot overtake. ---- */

/* 16 bytes; what was in `d` stays, and nothing is read, when they are not wanted. 9.7.9.8 ld */
__device__ __forceinline__ void ld_global_16_if(bool wanted, uint4 &d, const void *global) {
    asm volatile(
        "{\n\t"
        ".reg .pred wanted;\n\t"
        "setp.ne.s32 wanted, %5, 0;\n\t"
        "@wanted ld.global.v4.b32 {%0, %1, %2, %3}, [%4];\n\t"
        "}"
        : "+r"(d.x), "+r"(d.y), "+r"(d.z), "+r"(d.w)
        : "l"(__cvta_generic_to_global(global)), "r"(int(wanted))
        : "memory");
}

/* 9.7.9.11 st */
__device__ __forceinline__ void st_global_16_if(bool wanted, void *global, uint4 x) {
    asm volatile(
        "{\n\t"
        ".reg .pred wanted;\n\t"
        "setp.ne.s32 wanted, %5, 0;\n\t"
        "@wanted st.global.v4.b32 [%4], {%0, %1, %2, %3};\n\t"
        "}" ::"r"(x.x),
        "r"(x.y), "r"(x.z), "r"(x.w), "l"(__cvta_generic_to_global(global)), "r"(int(wanted))
        : "memory");
}

/* ---- Predicated 8-byte and 4-byte accesses, for the same reason. ---- */

/* 9.7.9.8 ld */
__device__ __forceinline__ void ld_global_8_if(bool wanted, uint2 &d, const void *global) {
    asm volatile(
        "{\n\t"
        ".reg .pred wanted;\n\t"
        "setp.ne.s32 wanted, %3, 0;\n\t"
        "@wanted ld.global.v2.b32 {%0, %1}, [%2];\n\t"
        "}"
        : "+r"(d.x), "+r"(d.y)
        : "l"(__cvta_generic_to_global(global)), "r"(int(wanted))
        : "memory");
}

/* 9.7.9.11 st */
__device__ __forceinline__ void st_global_8_if(bool wanted, void *global, uint2 x) {
    asm volatile(
        "{\n\t"
        ".reg .pred wanted;\n\t"
        "setp.ne.s32 wanted, %3, 0;\n\t"
        "@wanted st.global.v2.b32 [%2], {%0, %1};\n\t"
        "}" ::"r"(x.x),
        "r"(x.y), "l"(__cvta_generic_to_global(global)), "r"(int(wanted))
        : "memory");
}

/* 9.7.9.11 st */
__device__ __forceinline__ void st_global_4_if(bool wanted, void *global, uint32_t x) {
    asm volatile(
        "{\n\t"
        ".reg .pred wanted;\n\t"
        "setp.ne.s32 wanted, %2, 0;\n\t"
        "@wanted st.global.b32 [%1], %0;\n\t"
        "}" ::"r"(x),
        "l"(__cvta_generic_to_global(global)), "r"(int(wanted))
        : "memory");
}

/* 8 bytes of shared memory, where the compiler would make two stores of 4. 9.7.9.11 st */
__device__ __forceinline__ void st_shared_8(float *shared, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(uint32_t(__cvta_generic_to_shared(shared))), "f"(x), "f"(y)
                 : "memory");
}

/* ---- Between the blocks of a cooperative launch, in global memory ---- */

/* Adds 1; what this thread wrote before is seen by who acquires the sum. 9.7.13.8 red */
__device__ __forceinline__ void red_release_increment(uint32_t *global) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(__cvta_generic_to_global(global)) : "memory");
}

/* 9.7.9.8 ld */
__device__ __forceinline__ uint32_t ld_acquire(const uint32_t *global) {
    uint32_t x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(__cvta_generic_to_global(global)) : "memory");
    return x;
}

/* ---- Matrix fragments: 9.7.14.5 Matrix multiply-accumulate with mma ---- */

/*
 * Loads four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8, and
 * receives, of every matrix, the elements 2 * (l % 4) and + 1 of row l / 4. 9.7.14.5.15 ldmatrix
 */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&d)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}

/* ldmatrix_x4 with every 8x8 matrix transposed on the way. 9.7.14.5.15 ldmatrix */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&d)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}

/* c += a * b for a 16x8 tile with k = 16; fragments as in 9.7.14.5.8. 9.7.14.5.14 mma */
__device__ __forceinline__ void mma_m16n8k16_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* mma_m16n8k16_f16 for bf16 operands. 9.7.14.5.14 mma */
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- Special registers ----
 *
 * The same as blockIdx.x and threadIdx.x, but read where they are called: what is computed from them is not
 * hoisted, shared with other places or kept in registers in between.
 */

/* 10.7 %ctaid */
__device__ __forceinline__ uint32_t block_index_x() {
    uint32_t x;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}

/* 10.1 %tid */
__device__ __forceinline__ uint32_t thread_index_x() {
    uint32_t x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* ---- Conversions: 9.7.9.21 cvt, round to nearest even ---- */

/* The halves of a word. 9.7.9.1 mov */
__device__ __forceinline__ void halves(uint16_t &lo, uint16_t &hi, uint32_t x) {
    asm("mov.b32 {%0, %1}, %2;" : "=h"(lo), "=h"(hi) : "r"(x));
}

__device__ __forceinline__ float f32_from_f16(uint16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

__device__ __forceinline__ uint16_t f16_from_f32(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint16_t bf16_from_f32(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

/* The pair {lo, hi}; the instruction names the upper half first. */
__device__ __forceinline__ uint32_t f16x2_from_f32(float lo, float hi) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

/* The pair {lo, hi}; the instruction names the upper half first. */
__device__ __forceinline__ uint32_t bf16x2_from_f32(float lo, float hi) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

/* Rounds to the nearest integer from -128 to 127; NaN becomes 0. */
__device__ __forceinline__ int32_t s8_from_f32(float x) {
    int32_t y;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

/* The lane of its warp that a thread is. 10.2 %laneid */
__device__ __forceinline__ uint32_t lane() {
    uint32_t y;
    asm("mov.u32 %0, %%laneid;" : "=r"(y));
    return y;
}

/* ---- Minimum and maximum that are NaN where an operand is: 9.7.3.11 min, 9.7.3.12 max ---- */

__device__ __forceinline__ float min_nan(float x, float y) {
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

__device__ __forceinline__ float max_nan(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

/* ---- Approximations: 9.7.3 Floating-point instructions ---- */

/*
 * 2^x, at most 2 ulp + 2^-22 off; subnormal inputs count as 0 and subnormal results become 0.
 * ex2(-inf) = +0, ex2(+inf) = +inf, NaN stays NaN. 9.7.3.21 ex2
 */
__device__ __forceinline__ float ex2_approx_ftz(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / sqrt(x), relative error at most 2^-22.9. 9.7.3.16 rsqrt */
__device__ __forceinline__ float rsqrt_approx(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x, at most 1 ulp off; subnormal inputs count as 0. 9.7.3.13 rcp */
__device__ __forceinline__ float rcp_approx_ftz(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace fflash::ptx
