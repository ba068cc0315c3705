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
template <int kBlockN, int kSteps>
struct GatheredShared {
    KeyPlaces places[kSteps][kBlockN];
    int tiles[4];
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
    using Shared = GatheredShared<kBlockN, kPlaceSteps>;

    /* `shared.source` is there. Finds the places of the first step; a barrier must follow before they are copied. */
    __device__ __forceinline__ GatheredTiles(char *smem, Shared &shared, const fflash_prefill_params &params)
        : smem_(smem), base_(__cvta_generic_to_shared(smem)), shared_(shared), params_(params) {
#pragma unroll 1
        for (int step = 0;; ++step) {
            find_run();
            if (step == 2) break;
            const int tile = ahead_;
            look_up(step);
            if (step == 0) write_places(step, tile);
        }
    }

    __device__ __forceinline__ uint32_t sK(uint32_t step) const { return base_ + Traits::kSmemK + step % Traits::kStagesK * Tile::kBytes; }
    __device__ __forceinline__ uint32_t sV(uint32_t step) const { return base_ + Traits::kSmemV + step % Traits::kStagesV * Tile::kBytes; }

    /* The tile of a step, or of one of the next two. */
    __device__ __forceinline__ int tile(uint32_t step) const { return shared_.tiles[step % 4]; }

    /* So many steps can be done before find_run. */
    __device__ __forceinline__ int steps_in_run() const { return ahead_end_ - ahead_; }

    /* The next run of tiles where the last has ended. Not within a step. */
    __device__ __forceinline__ void find_run() {
        if (ahead_ < ahead_end_) return;
        const TileWalk<kBlockN> walk = shared_.source.walk;
        ahead_ = walk.from(params_.mask, ahead_);
        ahead_end_ = walk.run_end(params_.mask, ahead_);
    }

    /*
     * Starts the copies of a step's tile, as one group, and prepares those of the next two. Steps come in order. kAny: f32
     * is taken too, and there at the end.
     */
    template <bool kAny = false>
    __device__ __forceinline__ void load(uint32_t step) {
        load_v<kAny>(step);
        load_k<kAny>(step);
        ptx::cp_async_commit();
    }

    /* The same of one of its halves, to be committed; K is the last of a step. */
    template <bool kAny = false>
    __device__ __forceinline__ void load_v(uint32_t step) {
        copy<kAny>(sV(step), places(step), &KeyPlaces::v, params_.head_dim_v);
    }
    template <bool kAny = false>
    __device__ __forceinline__ void load_k(uint32_t step) {
        copy<kAny>(sK(step), places(step), &KeyPlaces::k, params_.head_dim);
        write_places(step + 1, tile(step + 1));
        look_up(step + 2);
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
    __device__ __forceinline__ KeyPlaces *places(uint32_t step) const { return shared_.places[step % kPlaceSteps]; }

    /* Starts to read the page of this thread's key in the next tile, that of `step`. */
    __device__ __forceinline__ void look_up(uint32_t step) {
        if (threadIdx.x < kBlockN) {
            const int key = ahead_ * kBlockN + threadIdx.x;
            const int32_t *pages = shared_.source.pages;
            page_ = 0;
            if (pages != nullptr && shared_.source.walk.wants(key)) page_ = pages[divide(key, params_.requests.page_size)];
            if (threadIdx.x == 0) shared_.tiles[step % 4] = ahead_;
        }
        ++ahead_;
    }

    /* Where this thread's key of a tile lies. A page that does not exist is reported if anybody wants to know. */
    __device__ __forceinline__ void write_places(uint32_t step, int tile) {
        if (threadIdx.x >= kBlockN) return;
        const KeySource<kBlockN> &source = shared_.source;
        const fflash_requests &requests = params_.requests;
        const int key = tile * kBlockN + threadIdx.x;
        KeyPlaces &to = places(step)[threadIdx.x];
        to = {nullptr, nullptr};
        if (!source.walk.wants(key)) return;
        int row = key;
        if (source.pages != nullptr) {
            row = remainder(key, requests.page_size);
            if (uint32_t(page_) >= uint32_t(requests.num_pages)) {
                if (requests.page_error != nullptr) atomicMax(requests.page_error, 1 + source.request);
                return;
            }
        }
        const int bytes = kTakesF32<T> && params_.is_f32 ? 4 : 2;
        to = {source.k + (page_ * params_.k_strides.batch + row * params_.k_strides.seqlen) * bytes,
              source.v + (page_ * params_.v_strides.batch + row * params_.v_strides.seqlen) * bytes};
    }

    /* Copies this thread's chunks of a tile, one of every so manieth row; those past head_dim do not exist. */
    template <bool kAny>
    __device__ __forceinline__ void copy(uint32_t tile, const KeyPlaces *places, const char *KeyPlaces::*tensor, int head_dim) {
        const int first_row = threadIdx.x / Tile::kChunks;
        const int column = threadIdx.x % Tile::kChunks * kChunkElements;
        const uint32_t target = tile + Tile::offset(first_row, threadIdx.x % Tile::kChunks);
        if (kAny && kTakesF32<T> && params_.is_f32) {
#pragma unroll 1
            for (int row = first_row; row < Tile::kRows; row += kRowsPerPass) {
                const char *from = places[row].*tensor;
                convert_chunk<T>(smem_ + (target - base_) + (row - first_row) * Tile::kRowBytes,
                                 reinterpret_cast<const float *>(from) + column, from != nullptr && column < head_dim);
            }
        } else {
#pragma unroll
            for (int pass = 0; pass < kPasses; ++pass) {
                const char *from = places[first_row + pass * kRowsPerPass].*tensor;
                ptx::cp_async_16(target + pass * kRowsPerPass * Tile::kRowBytes, from + column * 2,
                                 from != nullptr && column < head_dim ? kChunkBytes : 0);
            }
        }
    }

    char *smem_;
    uint32_t base_;
    Shared &shared_;
    const fflash_prefill_params &params_;
    int ahead_ = 0;     /* the tile whose pages are read next */
    int ahead_end_ = 0; /* the end of its run */
    int page_ = 0;      /* of this thread's key, of the tile whose places are written next */
};

}  // namespace fflash
