/*
 * Rotating tiles of K and V whose keys lie anywhere: in pages, in f32, with gaps between tiles.
 *
 * A warp copies the same rows of every tile, finds by itself where they lie, and tells nobody. It does so for kBatch steps at
 * once, between steps: a lane finds a key or a few, and its addresses pass to the lanes that copy the key through shared
 * memory. So that a step only reads addresses, and what it takes to find them is shared by kBatch steps.
 *
 * Eight lanes copy a row, each every eighth of its chunks: a warp reads whole 128-byte lines, and the chunks of a lane are at
 * constant distances in memory and, as the swizzle permutes the chunks of a line, in the tile too (smem_tile.cuh).
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

/* What one warp knows of the steps to come. */
template <int kBatch>
struct WarpSteps {
    int tiles[2 * kBatch]; /* of a step, of this batch and the one before */
    int tile;              /* not visited before this one */
    int run_end;           /* tiles from it on to this one are visited */
    int found;             /* so many steps have been found */
};

/* In shared memory, beside the tiles. */
template <int kBlockN, int kRows, int kBatch, int kRing, int kWarps>
struct GatheredShared {
    KeyPlaces places[kRing][kRows];
    WarpSteps<kBatch> warps[kWarps];
    KeySource<kBlockN> source;
};

template <class Traits>
class GatheredTiles : public KvBuffers<Traits> {
    using Buffers = KvBuffers<Traits>;
    using T = typename Traits::Element;
    using Tile = typename Traits::KvTile;
    static constexpr int kBlockN = Traits::kBlockN;
    static constexpr int kRowLanes = 8;
    static constexpr int kLineChunks = Tile::kChunks / kRowLanes;
    static constexpr int kWarpRows = kWarpSize / kRowLanes;
    static constexpr int kRowsPerPass = Traits::kThreads / kRowLanes;
    static constexpr int kPasses = kBlockN / kRowsPerPass;
    /* Lanes find as many rows of a step each as they copy rows at a time. */
    static constexpr int kBatch = kWarpSize / kWarpRows;
    /* Teams copy V a step after K, when the next batch may have been found. */
    static constexpr int kRing = Traits::kTeam > 1 ? 2 * kBatch : kBatch;
    /* Half a line more than there are rows: the rows that a warp writes of two steps are in different banks. */
    static constexpr int kPlaceRows = kBlockN + 4;
    static_assert(kLineChunks * kRowLanes == Tile::kChunks, "a row is a whole number of lines");
    static_assert(kPasses * kRowsPerPass == kBlockN && kRowsPerPass % kSwizzleRows == 0, "threads cover the tile evenly");
    static_assert(sizeof(KeyPlaces) * kWarpRows == 64 && sizeof(KeyPlaces) * kPlaceRows % 128 == 64, "two steps fill the banks");

public:
    using Buffers::sK;
    using Buffers::sV;
    using Shared = GatheredShared<kBlockN, kPlaceRows, kBatch, kRing, Traits::kWarps>;

    /* `shared.source` is there. */
    __device__ __forceinline__ GatheredTiles(char *smem, Shared &shared, const fflash_prefill_params &params)
        : Buffers(__cvta_generic_to_shared(smem)), smem_(smem), shared_(shared), params_(params) {
        if (lane() == 0) steps().tile = steps().run_end = steps().found = 0;
        __syncwarp();
        find(0);
    }

    /* The tile of a step that has been found, not more than kBatch before the last of them. */
    __device__ __forceinline__ int tile(uint32_t step) const { return steps().tiles[step % (2 * kBatch)]; }

    /* Finds the batch of steps that begins with this one, unless it has been found: after the loads of the step before, or in teams of
     * its K, and before any of this one. */
    __device__ __forceinline__ void find(int step) {
        if (step < steps().found) return;
        const KeySource<kBlockN> source = shared_.source;
        int tile = steps().tile;
        int run_end = steps().run_end;
        int own = 0;
#pragma unroll 1
        for (int i = 0; i < kBatch; ++i, ++tile) {
            if (tile >= run_end) {
                tile = source.walk.from(params_.mask, tile);
                run_end = source.walk.run_end(params_.mask, tile);
            }
            if (lane() / kWarpRows == i) own = tile;
        }
        __syncwarp();
        if (lane() == 0) {
            steps().tile = tile;
            steps().run_end = run_end;
            steps().found = step + kBatch;
        }
        const uint32_t own_step = step + lane() / kWarpRows;
        const int own_row = lane() % kWarpRows;
        if (own_row == 0) steps().tiles[own_step % (2 * kBatch)] = own;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int row = pass * kRowsPerPass + warp() * kWarpRows + own_row;
            shared_.places[own_step % kRing][row] = place(source, own * kBlockN + row);
        }
        __syncwarp();
    }

    /* How many of the steps from this one on are plain, and may be done before find: tiles that all rows see in full. */
    __device__ __forceinline__ int plain_steps(int step) const {
        /* The next whose copies need another batch. */
        const int end = (step + 1) / kBatch * kBatch + kBatch - 1;
        const bool is_plain = step + lane() < end && shared_.source.walk.is_plain(params_.mask, tile(step + lane()));
        return __ffs(~__ballot_sync(kFullWarp, is_plain)) - 1;
    }

    /* Starts the copies of K of one step and of V of another, as one group. kAny: f32 is taken too, and there at the end. */
    template <bool kAny = false>
    __device__ __forceinline__ void load(uint32_t step_k, uint32_t step_v) {
        if (kAny && kTakesF32<T> && params_.is_f32) {
            convert(sV(step_v), &KeyPlaces::v, step_v, params_.head_dim_v);
            convert(sK(step_k), &KeyPlaces::k, step_k, params_.head_dim);
        } else {
            /* Read anew, so that nothing computed from it takes a register of the rest of the step. */
            const Part part(ptx::thread_index_x());
            copy(sV(step_v), &KeyPlaces::v, step_v, params_.head_dim_v, part);
            copy(sK(step_k), &KeyPlaces::k, step_k, params_.head_dim, part);
        }
        ptx::cp_async_commit();
    }

    /* The same of K alone. */
    __device__ __forceinline__ void load_k(uint32_t step) {
        if (kTakesF32<T> && params_.is_f32) {
            convert(sK(step), &KeyPlaces::k, step, params_.head_dim);
        } else {
            copy(sK(step), &KeyPlaces::k, step, params_.head_dim, Part(threadIdx.x));
        }
        ptx::cp_async_commit();
    }

private:
    __device__ __forceinline__ static int lane() { return threadIdx.x % kWarpSize; }
    __device__ __forceinline__ static int warp() { return threadIdx.x / kWarpSize; }

    __device__ __forceinline__ WarpSteps<kBatch> &steps() const { return shared_.warps[warp()]; }

    /* What a thread copies of a tile: the first of its rows, and the first of its chunks of a row. */
    struct Part {
        int row;
        int chunk;
        uint32_t target;

        __device__ __forceinline__ explicit Part(uint32_t thread)
            : row(thread / kRowLanes), chunk(thread % kRowLanes), target(Tile::offset(row, chunk)) {}
    };

    /* Where a key lies. A page that does not exist is reported if anybody wants to know. */
    __device__ __forceinline__ KeyPlaces place(const KeySource<kBlockN> &source, int key) const {
        const KeyPlaces nowhere = {nullptr, nullptr};
        if (!source.walk.wants(key)) return nowhere;
        const fflash_requests &requests = params_.requests;
        int64_t page = 0;
        int row = key;
        if (source.pages != nullptr) {
            page = __ldg(source.pages + divide(key, requests.page_size));
            row = remainder(key, requests.page_size);
            if (uint64_t(page) >= uint64_t(requests.num_pages)) {
                if (requests.page_error != nullptr) atomicMax(requests.page_error, 1 + source.request);
                return nowhere;
            }
        }
        const int bytes = kTakesF32<T> && params_.is_f32 ? 4 : 2;
        return {source.k + (page * params_.k_strides.batch + row * params_.k_strides.seqlen) * bytes,
                source.v + (page * params_.v_strides.batch + row * params_.v_strides.seqlen) * bytes};
    }

    /* Copies this thread's chunks of rows; those past head_dim do not exist. */
    __device__ __forceinline__ void copy(uint32_t tile, const char *KeyPlaces::*tensor, uint32_t step, int head_dim, Part part) const {
        const char *from[kPasses];
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) from[pass] = shared_.places[step % kRing][part.row + pass * kRowsPerPass].*tensor;
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const int columns = from[pass] != nullptr ? head_dim - part.chunk * kChunkElements : 0;
#pragma unroll
            for (int line = 0; line < kLineChunks; ++line)
                ptx::cp_async_16(tile + part.target + pass * kRowsPerPass * Tile::kRowBytes + line * kLineBytes,
                                 from[pass] + part.chunk * kChunkBytes + line * kLineBytes,
                                 line * kLineElements < columns ? kChunkBytes : 0);
        }
    }

    /* The same of f32. */
    __device__ __forceinline__ void convert(uint32_t tile, const char *KeyPlaces::*tensor, uint32_t step, int head_dim) const {
        const Part part(threadIdx.x);
#pragma unroll 1
        for (int pass = 0; pass < kPasses; ++pass) {
            const char *from = shared_.places[step % kRing][part.row + pass * kRowsPerPass].*tensor;
            char *to = smem_ + (tile - __cvta_generic_to_shared(smem_)) + part.target + pass * kRowsPerPass * Tile::kRowBytes;
#pragma unroll 1
            for (int line = 0; line < kLineChunks; ++line) {
                const int column = part.chunk * kChunkElements + line * kLineElements;
                convert_chunk<T>(to + line * kLineBytes, reinterpret_cast<const float *>(from) + column,
                                 from != nullptr && column < head_dim);
            }
        }
    }

    static constexpr int kLineElements = kRowLanes * kChunkElements;
    static constexpr int kLineBytes = kRowLanes * kChunkBytes;

    char *smem_;
    Shared &shared_;
    const fflash_prefill_params &params_;
};

}  // namespace fflash
