/*
 * Rotating tiles of K and V whose keys lie anywhere: in pages, in f32, with gaps between tiles.
 *
 * Where a key lies is found once for the CTA, by one thread, and passes to all through shared memory: step s, in which the
 * tile of step s + 1 is copied,
 *   starts to read the pages of step s + 3, which arrive in the course of the step,
 *   writes the places of step s + 2, whose pages were read in the step before,
 *   copies to the places of step s + 1.
 * So that reads that depend on each other are at least a step apart.
 */
#pragma once

#include <stdint.h>

#include "../common/ptx.cuh"
#include "../common/smem_tile.cuh"
#include "../params.h"
#include "block.cuh"
#include "kv_tiles.cuh"
#include "row_copy.cuh"
#include "seqlen.cuh"
#include "tile_walk.cuh"

namespace fflash {

/* Where the keys of a CTA lie, for all of it. */
template <int kBlockN>
struct KeySource {
    TileWalk<kBlockN> walk;
    int request;
    const int32_t *pages; /* of the request; null: there are none */
    const char *k;        /* of key 0 or page 0 */
    const char *v;

    __device__ __forceinline__ KeySource(const fflash_prefill_params &params, const Request &request, int kv_head,
                                         const TileWalk<kBlockN> &walk)
        : walk(walk), request(request.index), pages(params.requests.page_table) {
        const int bytes = params.is_f32 ? 4 : 2;
        const bool is_paged = pages != nullptr;
        const int64_t entry = is_paged ? 0 : request.index;
        if (is_paged) pages += request.index * params.requests.page_table_stride;
        k = first(params.k, params.k_strides, entry, request.k_row, kv_head, bytes);
        v = first(params.v, params.v_strides, entry, request.k_row, kv_head, bytes);
    }

private:
    __device__ __forceinline__ static const char *first(const void *tensor, const fflash_strides4 &strides, int64_t entry,
                                                        int64_t row, int head, int bytes) {
        return static_cast<const char *>(tensor) + (entry * strides.batch + row * strides.seqlen + head * strides.heads) * bytes;
    }
};

/* Addresses of a key's rows of K and of V; null for a key that nobody wants or that is not there. */
struct __align__(16) KeyPlaces {
    const char *k;
    const char *v;
};

/* In shared memory, beside the tiles. */
template <int kBlockN, int kSteps, int kWarps>
struct GatheredShared {
    KeyPlaces places[kSteps][kBlockN];
    int tiles[4];
    int run_ends[kWarps];
    KeySource<kBlockN> source;
};

template <class Traits>
class GatheredTiles {
    using T = typename Traits::Element;
    using Tile = typename Traits::KvTile;
    static constexpr int kBlockN = Traits::kBlockN;
    static constexpr int kRowsPerPass = Traits::kThreads / Tile::kChunks;
    static constexpr int kPasses = Tile::kRows / kRowsPerPass;
    static_assert(kPasses * kRowsPerPass == Tile::kRows && kRowsPerPass % kSwizzleRows == 0, "threads cover the tile evenly");
    static_assert(kBlockN <= Traits::kThreads, "a thread finds a key");

public:
    /* Teams copy V a step after K. */
    static constexpr int kPlaceSteps = Traits::kTeam > 1 ? 3 : 2;
    using Shared = GatheredShared<kBlockN, kPlaceSteps, Traits::kWarps>;

    /* `shared.source` is there. Finds the places of the first two steps; a barrier must follow before they are copied. */
    __device__ __forceinline__ GatheredTiles(char *smem, Shared &shared, const fflash_prefill_params &params)
        : smem_(smem), base_(__cvta_generic_to_shared(smem)), shared_(shared), params_(params) {
        if (threadIdx.x % kWarpSize == 0) run_end() = 0;
        __syncwarp();
#pragma unroll 1
        for (int step = 0; step < 3; ++step) {
            find_run();
            const int tile = ahead_;
            look_up(step);
            if (step < 2) write_places(step, tile);
        }
    }

    __device__ __forceinline__ uint32_t sK(uint32_t step) const { return base_ + Traits::kSmemK + step % Traits::kStagesK * Tile::kBytes; }
    __device__ __forceinline__ uint32_t sV(uint32_t step) const { return base_ + Traits::kSmemV + step % Traits::kStagesV * Tile::kBytes; }

    /* The tile of a step, or of one of the next two. */
    __device__ __forceinline__ int tile(uint32_t step) const { return shared_.tiles[step % 4]; }

    /* So many steps can be done before find_run. */
    __device__ __forceinline__ int steps_in_run() const { return run_end() - ahead_; }

    /* The next run of tiles where the last has ended. Not within a step. */
    __device__ __forceinline__ void find_run() {
        if (ahead_ < run_end()) return;
        const TileWalk<kBlockN> walk = shared_.source.walk;
        ahead_ = walk.from(params_.mask, ahead_);
        __syncwarp();
        if (threadIdx.x % kWarpSize == 0) run_end() = walk.run_end(params_.mask, ahead_);
        __syncwarp();
    }

    /* Starts the copies of a step's tile, as one group. kAny: f32 is taken too, and there at the end. */
    template <bool kAny = false>
    __device__ __forceinline__ void load(uint32_t step) {
        load_k<kAny>(step);
        load_v<kAny>(step);
        ptx::cp_async_commit();
    }

    /* The same of one of its halves, to be committed. */
    template <bool kAny = false>
    __device__ __forceinline__ void load_k(uint32_t step) {
        copy<kAny>(sK(step), places(step), &KeyPlaces::k, params_.head_dim);
    }
    template <bool kAny = false>
    __device__ __forceinline__ void load_v(uint32_t step) {
        copy<kAny>(sV(step), places(step), &KeyPlaces::v, params_.head_dim_v);
    }

    /* Prepares the copies of the steps to come; between the barriers of this step and the next. */
    __device__ __forceinline__ void prepare(uint32_t step) {
        write_places(step + 2, tile(step + 2));
        look_up(step + 3);
    }

    /* Waits for the tile loaded last, and for all warps to be through with the step before. */
    __device__ __forceinline__ void wait() {
        ptx::cp_async_wait<0>();
        __syncthreads();
    }

    /* The same; whether `flag` was set by any thread. */
    __device__ __forceinline__ bool wait_any(bool flag) {
        ptx::cp_async_wait<0>();
        return __syncthreads_or(flag);
    }

private:
    /* The end of the run that the tile ahead is in: the same in all warps, which find it each in its own time. */
    __device__ __forceinline__ int &run_end() const { return shared_.run_ends[threadIdx.x / kWarpSize]; }

    __device__ __forceinline__ KeyPlaces *places(uint32_t step) const { return shared_.places[step % kPlaceSteps]; }

    /* Threads are read anew where their number is used, so that nothing computed from it takes a register of the steps. */

    /* Starts to read the page of this thread's key in the next tile, that of `step`. */
    __device__ __forceinline__ void look_up(uint32_t step) {
        const int thread = ptx::thread_index_x();
        if (thread < kBlockN) {
            const KeySource<kBlockN> source = shared_.source;
            const int key = ahead_ * kBlockN + thread;
            page_ = 0;
            if ((source.pages != nullptr) & source.walk.wants(key)) page_ = __ldg(source.pages + divide(key, params_.requests.page_size));
            if (thread == 0) shared_.tiles[step % 4] = ahead_;
        }
        ++ahead_;
    }

    /* Where this thread's key of a tile lies. A page that does not exist is reported if anybody wants to know. */
    __device__ __forceinline__ void write_places(uint32_t step, int tile) {
        const int thread = ptx::thread_index_x();
        if (thread >= kBlockN) return;
        const KeySource<kBlockN> source = shared_.source;
        const fflash_requests &requests = params_.requests;
        const int key = tile * kBlockN + thread;
        const bool is_wanted = source.walk.wants(key);
        const bool is_paged = source.pages != nullptr;
        const bool exists = !is_paged | (uint32_t(page_) < uint32_t(requests.num_pages));
        const int row = is_paged ? remainder(key, requests.page_size) : key;
        const int bytes = kTakesF32<T> && params_.is_f32 ? 4 : 2;
        KeyPlaces to = {source.k + (page_ * params_.k_strides.batch + row * params_.k_strides.seqlen) * bytes,
                        source.v + (page_ * params_.v_strides.batch + row * params_.v_strides.seqlen) * bytes};
        if (!(is_wanted & exists)) to = {nullptr, nullptr};
        places(step)[thread] = to;
        if (is_wanted & !exists & (requests.page_error != nullptr)) atomicMax(requests.page_error, 1 + source.request);
    }

    /* Copies this thread's chunks of a tile, one of every so manieth row; those past head_dim do not exist. */
    template <bool kAny>
    __device__ __forceinline__ void copy(uint32_t tile, const KeyPlaces *places, const char *KeyPlaces::*tensor, int head_dim) {
        const uint32_t thread = ptx::thread_index_x();
        const int first_row = thread / Tile::kChunks;
        const int column = thread % Tile::kChunks * kChunkElements;
        const uint32_t target = tile + Tile::offset(first_row, thread % Tile::kChunks);
        if (kAny && kTakesF32<T> && params_.is_f32) {
#pragma unroll 1
            for (int row = first_row; row < Tile::kRows; row += kRowsPerPass) {
                const char *from = places[row].*tensor;
                convert_chunk<T>(smem_ + (target - base_) + (row - first_row) * Tile::kRowBytes,
                                 reinterpret_cast<const float *>(from) + column, from != nullptr && column < head_dim);
            }
        } else {
            const char *from[kPasses];
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) from[pass] = places[first_row + pass * kRowsPerPass].*tensor;
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass)
                ptx::cp_async_16(target + pass * kRowsPerPass * Tile::kRowBytes, from[pass] + column * 2,
                                 from[pass] != nullptr && column < head_dim ? kChunkBytes : 0);
        }
    }

    char *smem_;
    uint32_t base_;
    Shared &shared_;
    const fflash_prefill_params &params_;
    int ahead_ = 0; /* the tile whose pages are read next */
    int page_ = 0;  /* of this thread's key, of the tile whose places are written next */
};

}  // namespace fflash
