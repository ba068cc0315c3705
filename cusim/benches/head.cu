// One head of causal attention at head size 128 in f16, as plainly as a fused kernel can be written: what the
// benchmark of the emulator runs. O = softmax(Q K^T / sqrt(128)) V with the scores and the running maximum and
// sum of each row kept in registers.
//
// A block of 8 warps takes 128 queries, a warp 16 of them. Tiles of 64 keys and values are copied to shared
// memory with cp.async, their 16-byte pieces swizzled so that ldmatrix has no bank conflicts. `length` must be a
// multiple of 128.

#include <cuda_fp16.h>

#include <cstdint>

constexpr int kHeadDim = 128, kKeys = 64, kWarps = 8, kRows = 16 * kWarps;
constexpr int kPieces = kHeadDim / 8;

__device__ __forceinline__ uint32_t place(uint32_t tile, int row, int piece) {
    return tile + (row * kPieces + (piece ^ (row & 7))) * 16;
}

__device__ __forceinline__ void copy_tile(uint32_t tile, const __half *from) {
    for (int at = threadIdx.x; at < kKeys * kPieces; at += 32 * kWarps) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place(tile, at / kPieces, at % kPieces)),
                     "l"(from + at * 8)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t at) {
    if constexpr (kTransposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    }
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pair(float low, float high) {
    const __half2 halves = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&halves);
}

extern "C" __global__ void __launch_bounds__(32 * kWarps, 1)
    head(const __half *q, const __half *k, const __half *v, __half *o, int length) {
    __shared__ __align__(128) uint8_t memory[2 * kKeys * kHeadDim * 2];
    const uint32_t keys = static_cast<uint32_t>(__cvta_generic_to_shared(memory));
    const uint32_t values = keys + kKeys * kHeadDim * 2;
    const int lane = threadIdx.x % 32, group = lane / 4, pair_of = lane % 4 * 2;
    const int block = static_cast<int>(blockIdx.x) * kRows;
    const int row = block + static_cast<int>(threadIdx.x) / 32 * 16 + group;

    uint32_t query[kHeadDim / 16][4];
    #pragma unroll
    for (int step = 0; step < kHeadDim / 16; step++) {
        for (int part = 0; part < 4; part++) {
            const int at = (row + part % 2 * 8) * kHeadDim + step * 16 + part / 2 * 8 + pair_of;
            query[step][part] = *reinterpret_cast<const uint32_t *>(q + at);
        }
    }

    float sums[kHeadDim / 8][4] = {};
    float highest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const float scale = 0.08838834764f * 1.44269504f;  // 1 / sqrt(128) and log2(e)

    for (int start = 0; start < block + kRows; start += kKeys) {
        copy_tile(keys, k + static_cast<int64_t>(start) * kHeadDim);
        copy_tile(values, v + static_cast<int64_t>(start) * kHeadDim);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();

        float scores[kKeys / 8][4] = {};
        #pragma unroll
    for (int step = 0; step < kHeadDim / 16; step++) {
            #pragma unroll
            for (int tile = 0; tile < kKeys / 8; tile += 2) {
                uint32_t b[4];
                load_matrices<false>(b, place(keys, tile * 8 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
                multiply(scores[tile], query[step], b[0], b[1]);
                multiply(scores[tile + 1], query[step], b[2], b[3]);
            }
        }

        for (int half = 0; half < 2; half++) {
            float peak = highest[half];
            #pragma unroll
            for (int tile = 0; tile < kKeys / 8; tile++) {
                for (int side = 0; side < 2; side++) {
                    float &score = scores[tile][half * 2 + side];
                    const int key = start + tile * 8 + pair_of + side;
                    score = key > row + half * 8 ? -INFINITY : score * scale;
                    peak = fmaxf(peak, score);
                }
            }
            peak = fmaxf(peak, __shfl_xor_sync(0xffffffff, peak, 1));
            peak = fmaxf(peak, __shfl_xor_sync(0xffffffff, peak, 2));
            const float shrink = exp2f(highest[half] - peak);
            highest[half] = peak;
            total[half] *= shrink;
            #pragma unroll
            for (int tile = 0; tile < kHeadDim / 8; tile++) {
                sums[tile][half * 2] *= shrink;
                sums[tile][half * 2 + 1] *= shrink;
            }
            #pragma unroll
            for (int tile = 0; tile < kKeys / 8; tile++) {
                for (int side = 0; side < 2; side++) {
                    float &score = scores[tile][half * 2 + side];
                    score = exp2f(score - peak);
                    total[half] += score;
                }
            }
        }

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        #pragma unroll
    for (int step = 0; step < kKeys / 16; step++) {
            const uint32_t weights[4] = {
                pair(scores[step * 2][0], scores[step * 2][1]), pair(scores[step * 2][2], scores[step * 2][3]),
                pair(scores[step * 2 + 1][0], scores[step * 2 + 1][1]),
                pair(scores[step * 2 + 1][2], scores[step * 2 + 1][3])};
            #pragma unroll
            for (int tile = 0; tile < kHeadDim / 8; tile += 2) {
                uint32_t b[4];
                load_matrices<true>(b, place(values, step * 16 + lane / 8 % 2 * 8 + lane % 8, tile + lane / 16));
                multiply(sums[tile], weights, b[0], b[1]);
                multiply(sums[tile + 1], weights, b[2], b[3]);
            }
        }
        __syncthreads();
    }

    for (int half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffff, total[half], 2);
        #pragma unroll
        for (int tile = 0; tile < kHeadDim / 8; tile++) {
            const int at = (row + half * 8) * kHeadDim + tile * 8 + pair_of;
            *reinterpret_cast<uint32_t *>(o + at) =
                pair(sums[tile][half * 2] / total[half], sums[tile][half * 2 + 1] / total[half]);
        }
    }
}
