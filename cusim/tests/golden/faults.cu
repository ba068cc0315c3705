// Kernels that do one wrong thing each, in pairs: `name` is faulty, and `name_clean`
// differs in just that. All are launched with 64 threads a block and buffers of 64 words
// a block.

#include <cassert>
#include <cstdint>

#define PAIR(name)                                                                                           \
    extern "C" __global__ void name(uint32_t *out, const uint32_t *in) { name##_body<true>(out, in); }       \
    extern "C" __global__ void name##_clean(uint32_t *out, const uint32_t *in) { name##_body<false>(out, in); }

__device__ __forceinline__ uint32_t word() { return blockIdx.x * 64 + threadIdx.x; }

template <bool kFaulty>
__device__ __forceinline__ void past_the_end_body(uint32_t *out, const uint32_t *in) {
    out[word()] = in[word() + (kFaulty ? 4 : 0)];
}
PAIR(past_the_end)

template <bool kFaulty>
__device__ __forceinline__ void misaligned_body(uint32_t *out, const uint32_t *in) {
    const uint2 pair = *reinterpret_cast<const uint2 *>(in + (kFaulty ? 1 : 2));
    out[word()] = pair.x + pair.y;
}
PAIR(misaligned)

template <bool kFaulty>
__device__ __forceinline__ void shared_past_body(uint32_t *out, const uint32_t *in) {
    extern __shared__ uint32_t tile[];
    tile[threadIdx.x + (kFaulty ? 1 : 0)] = in[word()];
    out[word()] = tile[threadIdx.x + (kFaulty ? 1 : 0)];
}
PAIR(shared_past)

template <bool kFaulty>
__device__ __forceinline__ void uninitialized_shared_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    if (!kFaulty || threadIdx.x != 40) {
        tile[threadIdx.x] = in[word()];
    }
    __syncthreads();
    out[word()] = tile[63 - threadIdx.x];
}
PAIR(uninitialized_shared)

// Warps exchange words without waiting for each other.
template <bool kFaulty>
__device__ __forceinline__ void race_read_after_write_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = 0;
    __syncthreads();
    tile[threadIdx.x] = in[word()];
    if (!kFaulty) {
        __syncthreads();
    }
    out[word()] = tile[63 - threadIdx.x];
}
PAIR(race_read_after_write)

// The tile is refilled while others may still read it.
template <bool kFaulty>
__device__ __forceinline__ void race_write_after_read_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = in[word()];
    __syncthreads();
    const uint32_t mirrored = tile[63 - threadIdx.x];
    if (!kFaulty) {
        __syncthreads();
    }
    tile[threadIdx.x] = mirrored;
    __syncthreads();
    out[word()] = tile[63 - threadIdx.x];
}
PAIR(race_write_after_read)

template <bool kFaulty>
__device__ __forceinline__ void race_write_write_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[kFaulty ? threadIdx.x % 32 : threadIdx.x] = in[word()];
    __syncthreads();
    out[word()] = tile[threadIdx.x % 32];
}
PAIR(race_write_write)

// Warps of a block exchange words through global memory.
template <bool kFaulty>
__device__ __forceinline__ void race_global_warps_body(uint32_t *out, const uint32_t *in) {
    out[word()] = 0;
    __syncthreads();
    out[word()] = in[word()];
    if (!kFaulty) {
        __syncthreads();
    }
    const uint32_t mirrored = out[blockIdx.x * 64 + 63 - threadIdx.x];
    __syncthreads();
    out[word()] = mirrored;
}
PAIR(race_global_warps)

// Blocks write the same word.
template <bool kFaulty>
__device__ __forceinline__ void race_global_blocks_body(uint32_t *out, const uint32_t *in) {
    out[kFaulty ? threadIdx.x : word()] = in[word()];
}
PAIR(race_global_blocks)

__device__ __forceinline__ void copy_async(uint32_t *to, const uint32_t *from) {
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from) : "memory");
}

// The block waits for each other, but not for the copies.
template <bool kFaulty>
__device__ __forceinline__ void async_not_waited_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    copy_async(&tile[threadIdx.x], &in[word()]);
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (!kFaulty) {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncthreads();
    out[word()] = tile[63 - threadIdx.x];
}
PAIR(async_not_waited)

// A second copy into what is still being read.
template <bool kFaulty>
__device__ __forceinline__ void async_refill_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    copy_async(&tile[threadIdx.x], &in[word()]);
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    const uint32_t first = tile[63 - threadIdx.x];
    if (!kFaulty) {
        __syncthreads();
    }
    copy_async(&tile[threadIdx.x], &in[word()]);
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    out[word()] = first + tile[63 - threadIdx.x];
}
PAIR(async_refill)

// Half of the warps wait at another barrier.
template <bool kFaulty>
__device__ __forceinline__ void deadlock_body(uint32_t *out, const uint32_t *in) {
    if (kFaulty && threadIdx.x >= 32) {
        asm volatile("barrier.sync 1, 64;" ::: "memory");
    } else {
        asm volatile("barrier.sync 0, 64;" ::: "memory");
    }
    out[word()] = in[word()];
}
PAIR(deadlock)

// Half of a warp comes to a barrier, the other half waits for it elsewhere.
template <bool kFaulty>
__device__ __forceinline__ void divergent_barrier_body(uint32_t *out, const uint32_t *in) {
    if (!kFaulty || threadIdx.x % 32 < 16) {
        asm volatile("bar.sync 0;" ::: "memory");
        out[word()] = in[word()];
    }
    __syncwarp();
}
PAIR(divergent_barrier)

// The mask names lanes that do not come.
template <bool kFaulty>
__device__ __forceinline__ void absent_lanes_body(uint32_t *out, const uint32_t *in) {
    const uint32_t mine = in[word()];
    if (threadIdx.x % 32 < 16) {
        out[word()] = __shfl_xor_sync(kFaulty ? 0xffffffff : 0xffff, mine, 1);
    }
}
PAIR(absent_lanes)

template <bool kFaulty>
__device__ __forceinline__ void assertion_body(uint32_t *out, const uint32_t *in) {
    assert(in[word()] < (kFaulty ? 60 : 64));
    out[word()] = in[word()];
}
PAIR(assertion)

template <bool kFaulty>
__device__ __forceinline__ void trap_body(uint32_t *out, const uint32_t *in) {
    if (in[word()] == (kFaulty ? 33 : 64)) {
        __trap();
    }
    out[word()] = in[word()];
}
PAIR(trap)

// Waits for a flag that nobody sets.
template <bool kFaulty>
__device__ __forceinline__ void endless_body(uint32_t *out, const uint32_t *in) {
    while (kFaulty && *static_cast<const volatile uint32_t *>(in) == 0) {
    }
    out[word()] = in[word()];
}
PAIR(endless)

// An address of the heap of the host.
template <bool kFaulty>
__device__ __forceinline__ void wild_body(uint32_t *out, const uint32_t *in) {
    const uintptr_t wild = kFaulty ? 0x55d0c0de1000 : 0;
    out[word()] = *reinterpret_cast<const uint32_t *>(wild + (kFaulty ? 0 : reinterpret_cast<uintptr_t>(in)));
}
PAIR(wild)

template <bool kFaulty>
__device__ __forceinline__ void local_past_body(uint32_t *out, const uint32_t *in) {
    uint32_t own[8];
    for (int i = 0; i < 8; i++) {
        own[i] = in[i];
    }
    // The array ends where the thread's local memory ends.
    out[word()] = own[in[word()] % 8 + (kFaulty && threadIdx.x == 5 ? 8 : 0)];
}
PAIR(local_past)

// An infinity is born: 2^(2 * 64) is more than the largest number.
template <bool kFaulty>
__device__ __forceinline__ void overflow_body(uint32_t *out, const uint32_t *in) {
    const float x = static_cast<float>(in[word()]);
    out[word()] = __float_as_uint(x * (kFaulty ? 3e38f : 1e30f));
}
PAIR(overflow)

// Each warp waits for its own copies, and reads what the other has copied.
template <bool kFaulty>
__device__ __forceinline__ void async_before_barrier_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = 0;
    __syncthreads();
    copy_async(&tile[threadIdx.x], &in[word()]);
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (!kFaulty) {
        __syncthreads();
    }
    out[word()] = tile[63 - threadIdx.x];
}
PAIR(async_before_barrier)

// The source is not aligned to the bytes that are copied.
template <bool kFaulty>
__device__ __forceinline__ void async_misaligned_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint2 tile[64];
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(&tile[threadIdx.x]));
    const uint32_t *from = in + threadIdx.x / 2 * 2 + (kFaulty && threadIdx.x == 9 ? 1 : 0);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(at), "l"(from) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    out[word()] = tile[threadIdx.x].x;
}
PAIR(async_misaligned)

// Warps do not agree how many threads a barrier is for.
template <bool kFaulty>
__device__ __forceinline__ void barrier_count_body(uint32_t *out, const uint32_t *in) {
    const uint32_t count = kFaulty && threadIdx.x >= 32 ? 32 : 64;
    asm volatile("barrier.sync 1, %0;" ::"r"(count) : "memory");
    out[word()] = in[word()];
}
PAIR(barrier_count)

// A warp goes home, and the other waits for it.
template <bool kFaulty>
__device__ __forceinline__ void missing_warp_body(uint32_t *out, const uint32_t *in) {
    if (kFaulty && threadIdx.x >= 32) {
        return;
    }
    asm volatile("barrier.sync 2, 64;" ::: "memory");
    out[word()] = in[word()];
}
PAIR(missing_warp)

// More arrivals than the phase has left.
template <bool kFaulty>
__device__ __forceinline__ void arrivals_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint64_t barrier;
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(&barrier));
    if (threadIdx.x == 0) {
        uint64_t state;
        asm volatile("mbarrier.init.shared.b64 [%0], 3;" ::"r"(at) : "memory");
        asm volatile("mbarrier.arrive.noComplete.shared.b64 %0, [%1], %2;"
                     : "=l"(state)
                     : "r"(at), "r"(kFaulty ? 4 : 2)
                     : "memory");
    }
    out[word()] = in[word()];
}
PAIR(arrivals)

__device__ uint32_t kTable[64];
__device__ uint32_t kReady;

// A block passes words on with a flag, which must not be seen before them.
template <bool kFaulty>
__device__ __forceinline__ void unfenced_blocks_body(uint32_t *out, const uint32_t *in) {
    if (blockIdx.x == 0) {
        kTable[threadIdx.x] = in[word()];
        __syncthreads();
        if (threadIdx.x == 0) {
            if (!kFaulty) {
                __threadfence();
            }
            atomicExch(&kReady, 1);
        }
        return;
    }
    if (threadIdx.x == 0) {
        while (atomicAdd(&kReady, 0) == 0) {
        }
        __threadfence();
    }
    __syncthreads();
    out[word()] = kTable[threadIdx.x];
}
PAIR(unfenced_blocks)

__constant__ uint32_t kWeights[64] = {1, 2, 3};

template <bool kFaulty>
__device__ __forceinline__ void constant_past_body(uint32_t *out, const uint32_t *in) {
    out[word()] = in[word()] * kWeights[threadIdx.x + (kFaulty ? 1 : 0)];
}
PAIR(constant_past)

// The two buffers as one parameter.
struct Buffers {
    uint32_t *all[2];
};

template <bool kFaulty>
__device__ __forceinline__ void parameter_past_body(const Buffers &buffers) {
    buffers.all[0][word()] = buffers.all[threadIdx.x / (kFaulty ? 16 : 32)] != nullptr;
}
extern "C" __global__ void parameter_past(const __grid_constant__ Buffers buffers) { parameter_past_body<true>(buffers); }
extern "C" __global__ void parameter_past_clean(const __grid_constant__ Buffers buffers) { parameter_past_body<false>(buffers); }

// Lanes of one warp exchange words. Each runs at its own pace, so that what one stores another sees for certain
// only after something that orders their memory.
__device__ __forceinline__ uint32_t mirrored() { return threadIdx.x ^ 31; }

template <bool kFaulty>
__device__ __forceinline__ void lanes_read_after_write_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = in[word()];
    if (!kFaulty) {
        __syncwarp();
    }
    out[word()] = tile[mirrored()];
}
PAIR(lanes_read_after_write)

template <bool kFaulty>
__device__ __forceinline__ void lanes_write_after_read_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = in[word()];
    __syncwarp();
    const uint32_t other = tile[mirrored()];
    if (!kFaulty) {
        __syncwarp();
    }
    tile[threadIdx.x] = other;
    out[word()] = tile[threadIdx.x];
}
PAIR(lanes_write_after_read)

// Two stores of one instruction each; lanes that store to one word in the same instruction are no fault.
template <bool kFaulty>
__device__ __forceinline__ void lanes_write_write_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[2];
    uint32_t *const own = &tile[threadIdx.x / 32];
    *own = 0;
    if (!kFaulty) {
        __syncwarp();
    }
    if (threadIdx.x % 32 == 7) {
        *own = in[word()];
    }
    __syncthreads();
    out[word()] = *own;
}
PAIR(lanes_write_write)

// A shuffle makes lanes wait for each other, but does not order their memory.
template <bool kFaulty>
__device__ __forceinline__ void lanes_shuffle_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    tile[threadIdx.x] = in[word()];
    const uint32_t other = __shfl_xor_sync(0xffffffff, in[word()], 1);
    if (!kFaulty) {
        __syncthreads();
    }
    out[word()] = other + tile[mirrored()];
}
PAIR(lanes_shuffle)

// Lanes store halves of one word, one after the other.
template <bool kFaulty>
__device__ __forceinline__ void lanes_halves_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint16_t tile[64];
    const bool is_odd = threadIdx.x % 2 != 0;
    if (!is_odd) {
        tile[threadIdx.x] = static_cast<uint16_t>(in[word()]);
    }
    asm volatile("" ::: "memory");
    if (is_odd) {
        tile[threadIdx.x - (kFaulty ? 1 : 0)] = static_cast<uint16_t>(in[word()]);
    }
    __syncwarp();
    out[word()] = tile[mirrored()];
}
PAIR(lanes_halves)

// Each half of a warp goes its own way, and waits for its own lanes.
template <bool kFaulty>
__device__ __forceinline__ void lanes_diverged_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    if (threadIdx.x % 32 < 16) {
        tile[threadIdx.x] = in[word()];
        __syncwarp(0x0000ffff);
        out[word()] = tile[threadIdx.x ^ 15];
    } else {
        tile[threadIdx.x] = in[word()] + 1;
        if (!kFaulty) {
            __syncwarp(0xffff0000);
        }
        out[word()] = tile[threadIdx.x ^ 15];
    }
}
PAIR(lanes_diverged)

// Whoever waits for copies waits for its own.
template <bool kFaulty>
__device__ __forceinline__ void lanes_async_body(uint32_t *out, const uint32_t *in) {
    __shared__ uint32_t tile[64];
    copy_async(&tile[threadIdx.x], &in[word()]);
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (!kFaulty) {
        __syncwarp();
    }
    out[word()] = tile[mirrored()];
}
PAIR(lanes_async)

// A lane reads the row whose address it gives.
template <bool kFaulty>
__device__ __forceinline__ void lanes_matrix_body(uint32_t *out, const uint32_t *in) {
    __shared__ __align__(16) uint32_t tile[64];
    tile[threadIdx.x] = in[word()];
    if (!kFaulty) {
        __syncwarp();
    }
    const uint32_t *const row = &tile[threadIdx.x / 32 * 32 + threadIdx.x % 8 * 4];
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    uint32_t fragment;
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(fragment) : "r"(at) : "memory");
    out[word()] = fragment;
}
PAIR(lanes_matrix)
