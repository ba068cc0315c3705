/*
 * The tile table of the prefill kernels and what follows from it at compile time.
 *
 * src/attention/tiles.rs holds the same table for launches; a test there reads the rows below.
 */
#pragma once

#include "../common/fragment.cuh"
#include "../common/smem_tile.cuh"
#include "softmax.cuh"

namespace fflash {

template <int kHeadDim>
struct PrefillTile;

/*
 * head_dim, block_m (queries per CTA), block_n (keys per tile), warps, held_q (leading columns of Q kept in registers),
 * team (warps that share their rows of O).
 *
 * Accumulators bound the tiles: a warp keeps block_m / warps rows of S (block_n columns), and as many of O (head_dim), all
 * in registers. 32 rows per warp halve the shared-memory reads of K and V per mma against 16, but at head_dim 256 their
 * accumulators do not fit. There two warps make a team: each weighs 16 rows, and multiplies the weights of all 32, which
 * pass through shared memory, with its half of V's columns, so that V is read as often as with 32 rows. What registers
 * are left hold Q, which every tile would read from shared memory again. Shared memory stays below the 99 KiB that every
 * architecture from sm_80 on has.
 */
#define FFLASH_PREFILL_TILE(head_dim, block_m, block_n, warps, held_q, team) \
    template <>                                                              \
    struct PrefillTile<head_dim> {                                           \
        static constexpr int kBlockM = block_m;                              \
        static constexpr int kBlockN = block_n;                              \
        static constexpr int kWarps = warps;                                 \
        static constexpr int kHeldQ = held_q;                                \
        static constexpr int kTeam = team;                                   \
    }
FFLASH_PREFILL_TILE(64, 128, 64, 4, 0, 1);
FFLASH_PREFILL_TILE(128, 128, 32, 4, 0, 1);
FFLASH_PREFILL_TILE(256, 128, 32, 8, 256, 2);
#undef FFLASH_PREFILL_TILE

template <class Element_, int kHeadDim_>
struct PrefillTraits {
    using Element = Element_;
    using Tile = PrefillTile<kHeadDim_>;
    static constexpr int kHeadDim = kHeadDim_;
    static constexpr int kBlockM = Tile::kBlockM;
    static constexpr int kBlockN = Tile::kBlockN;
    static constexpr int kWarps = Tile::kWarps;
    static constexpr int kHeldQSteps = Tile::kHeldQ / kMmaK;

    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kWarpRows = kBlockM / kWarps;
    static constexpr int kMTiles = kWarpRows / kMmaM;          /* accumulator rows of a warp, in tiles of 16 */
    static constexpr int kTeam = Tile::kTeam;
    static constexpr int kOMTiles = kTeam * kMTiles;           /* the same of O, of which a warp has kOColumns columns */
    static constexpr int kOColumns = kHeadDim / kTeam;
    /* With 64K registers per SM, two CTAs of 128 threads or one of 256 leave 255 to a thread. */
    static constexpr int kMinBlocks = 256 / kThreads;

    /*
     * Sixteenths of P V between Q K^T and the copies of the next tile (prefill_loop.cuh). Tried out: what the compiler makes
     * of a step swings by several percent with the place of the copies, and from sm_100 on whether its loop spills.
     */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
    static constexpr int kMiddleOfWidest = 3;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    static constexpr int kMiddleOfWidest = 16;
#else
    static constexpr int kMiddleOfWidest = 4;
#endif
    static constexpr int kMiddleSixteenths = kHeadDim_ == 64 ? 6 : kHeadDim_ == 128 ? 5 : kMiddleOfWidest;

    using QTile = SmemTile<kBlockM, kHeadDim>;
    using KvTile = SmemTile<kBlockN, kHeadDim>;
    using Softmax = OnlineSoftmax<kMTiles, kThreads>;

    /* While a tile is multiplied the next is on its way, and one barrier per tile suffices. V is needed a step longer; teams load
     * it a step later. */
    static constexpr int kStagesK = 2;
    static constexpr int kStagesV = kTeam == 1 ? 3 : 2;
    static constexpr int kSmemK = 0;
    static constexpr int kSmemV = kSmemK + kStagesK * KvTile::kBytes;
    static constexpr int kSmemTiles = (kStagesK + kStagesV) * KvTile::kBytes;
    /* What a team shares: the weights of two tiles, as operands of every lane, and a factor for every row. */
    static constexpr int kSmemWeights = kSmemTiles;
    static constexpr int kWeightBytes = kTeam == 1 ? 0 : kBlockM * kBlockN * 2;
    static constexpr int kSmemFactors = kSmemWeights + 2 * kWeightBytes;
    static constexpr int kFactorBytes = kTeam == 1 ? 0 : kBlockM * 4;
    static constexpr int kSmemTeamEnd = kSmemFactors + kFactorBytes;
    /* Q that moves to registers as a whole does so before the first tiles are loaded over it. */
    static constexpr bool kQUnderTiles = Tile::kHeldQ == kHeadDim;
    static constexpr int kSmemQ = kQUnderTiles ? 0 : kSmemTeamEnd;
    static constexpr int kSmemQEnd = kSmemQ + QTile::kBytes;
    /* References of rows of large logits (softmax.cuh). */
    static constexpr int kSmemFar = kSmemQEnd > kSmemTeamEnd ? kSmemQEnd : kSmemTeamEnd;
    static constexpr int kSmemBytes = kSmemFar + Softmax::kFarBytes;

    static_assert(sizeof(Element) == 2, "fragments hold pairs of 16-bit elements");
    static_assert(kWarps * kMTiles * kMmaM == kBlockM, "warps split the rows evenly");
    static_assert(kBlockN % (2 * kMmaN) == 0 && kHeadDim % (2 * kMmaN) == 0, "ldmatrix.x4 reads 16x16 squares");
    static_assert(kWarps % kTeam == 0 && kOColumns % (2 * kMmaN) == 0, "teams split warps and columns evenly");
    static_assert(Tile::kHeldQ % kMmaK == 0 && Tile::kHeldQ <= kHeadDim, "Q is held by mma steps");
    static_assert(kSmemBytes <= 99 * 1024, "the least that sm_80 and later offer to one CTA");
};

}  // namespace fflash
