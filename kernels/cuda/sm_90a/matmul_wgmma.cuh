// Products on Hopper's tensor cores, f16 and bf16, f32 accumulators: one warp copies, two warpgroups multiply.
//
// A ring of STAGES tiles goes round between them. The copying warp waits until a tile is empty and starts two tensor copies, which
// report their bytes to the tile's `full` barrier; the multiplying warps wait for that, and arrive at its `empty` barrier when their
// products have read it. Nobody waits for the block. The epilogue is matmul_epilogue.cuh's, as in the kernels for sm_80.

#pragma once

#include "hopper.cuh"
#include "matmul_epilogue.cuh"

// The parameter list of the wgmma entries: MATMUL_PARAMETERS with the operands as tensor maps, (lines, length of a line) of each
// batch; an operand whose `batched` is 0 is the same one for all batches.
#define WGMMA_PARAMETERS                                                                                        \
    const __grid_constant__ TensorMap lhs_map, const __grid_constant__ TensorMap rhs_map, void *out,            \
        float *partials, const void *bias, const void *residual, void *pre, size_t out_row, size_t out_batch,   \
        int m, int n, int k, int k_per_split, int raster, unsigned flags
#define WGMMA_PROBLEM                                                                                           \
    Problem {                                                                                                   \
        out, partials, nullptr, nullptr, bias, residual, pre, out_row, out_batch, 0, 0, 0, 0, 0, 0, m, n, k,    \
            k_per_split, raster, flags                                                                          \
    }

// The shape of a block's work. Two warpgroups side by side (COLUMNS 2) compute 128 x 128 each, one above the other 64 x 128 each.
template <int COLUMNS_, int STAGES_>
struct WgmmaTile {
    static constexpr int COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int BM = 128, BN = 128 * COLUMNS, BK = 64;
    static constexpr int HEIGHT = COLUMNS;  // products of 64 rows that a warpgroup does per step
    static constexpr int CONSUMERS = 256, THREADS = CONSUMERS + 32;
    static constexpr int LHS_BYTES = BM * BK * 2, RHS_BYTES = BN * BK * 2, STAGE_BYTES = LHS_BYTES + RHS_BYTES;
    // Tiles, barriers, and what aligns the first tile to a pattern of the swizzle.
    static constexpr int SHARED_BYTES = STAGES * (STAGE_BYTES + 16) + 1024;
    static_assert(COLUMNS == 1 || COLUMNS == 2, "two warpgroups, above or beside each other");
    static_assert(BM * BN * 4 <= STAGES * STAGE_BYTES, "the epilogue stages the whole tile as f32 in the ring");
};

// Lines of 128 bytes, as copies bring them and products read them.
constexpr uint32_t LINE_BYTES = 128;
constexpr uint32_t PATTERN_BYTES = 8 * LINE_BYTES;

// An operand's tile, EXTENT long in M or N and BK in K.
//   K contiguous: EXTENT lines of BK               one box
//   K strided:    for each 64 of EXTENT, BK lines  a box each
template <bool CONTIGUOUS_K, int EXTENT, int BK>
struct WgmmaOperand {
    static_assert(BK * 2 == LINE_BYTES, "a line is a step of K");
    static constexpr uint32_t BLOCK_BYTES = BK * LINE_BYTES;  // of 64 of M or N, in either layout

    static __device__ __forceinline__ void copy(
        uint32_t tile, const TensorMap& map, int start, int k, int batch, uint32_t barrier) {
        if constexpr (CONTIGUOUS_K) {
            copy_box(tile, map, k, start, batch, barrier);
        } else {
#pragma unroll
            for (int i = 0; i < EXTENT / 64; i++) copy_box(tile + i * BLOCK_BYTES, map, start + 64 * i, k, batch, barrier);
        }
    }

    // Elements `start` on of M or N, 16 of K from 16 * step on.
    static __device__ __forceinline__ uint64_t part(uint32_t tile, int start, int step) {
        const uint32_t from = tile + start / 64 * BLOCK_BYTES + step * (CONTIGUOUS_K ? 32 : 16 * LINE_BYTES);
        return descriptor(from, BLOCK_BYTES, PATTERN_BYTES);
    }
};

template <typename T, bool LHS_K, bool RHS_K, typename S>
__device__ __forceinline__ void matmul_wgmma(const Problem p, const TensorMap& lhs_map, const TensorMap& rhs_map) {
    using L = WgmmaOperand<LHS_K, S::BM, S::BK>;
    using R = WgmmaOperand<RHS_K, S::BN, S::BK>;
    extern __shared__ __align__(1024) char smem[];
    const uint32_t misaligned = shared_address_of(smem) % PATTERN_BYTES;
    char* const ring = smem + (misaligned ? PATTERN_BYTES - misaligned : 0);
    const uint32_t tiles = shared_address_of(ring);
    const uint32_t full = tiles + S::STAGES * S::STAGE_BYTES, empty = full + S::STAGES * 8;
    const Work work = work_of_block<S::BM, S::BN>(p);
    // The same in all lanes, and known to be: addresses stay in uniform registers, 83 instructions for the 8 products of a step.
    const int warp = __shfl_sync(FULL_MASK, threadIdx.x / 32, 0);

    if (threadIdx.x == S::CONSUMERS) {
        prefetch_map(lhs_map);
        prefetch_map(rhs_map);
        for (int stage = 0; stage < S::STAGES; stage++) {
            mbarrier_init(full + 8 * stage, 1);
            mbarrier_init(empty + 8 * stage, S::CONSUMERS / 32);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    if (warp == S::CONSUMERS / 32) {
        if (threadIdx.x % 32 == 0) {
            int stage = 0;
            uint32_t parity = 1;  // of the phase before the first: all tiles are empty
            const int batch = static_cast<int>(work.batch);
            for (int k = work.k_begin; k < work.k_end; k += S::BK) {
                const uint32_t tile = tiles + stage * S::STAGE_BYTES, barrier = full + 8 * stage;
                mbarrier_wait(empty + 8 * stage, parity);
                mbarrier_arrive_expecting(barrier, S::STAGE_BYTES);
                L::copy(tile, lhs_map, work.row, k, batch, barrier);
                R::copy(tile + S::LHS_BYTES, rhs_map, work.col, k, batch, barrier);
                if (++stage == S::STAGES) stage = 0, parity ^= 1;
            }
        }
        return;  // the barriers below are of the multiplying warps alone
    }

    const int group = warp / 4;
    const int first_row = S::COLUMNS == 2 ? 0 : group * 64, first_col = S::COLUMNS == 2 ? group * 128 : 0;
    float acc[S::HEIGHT][16][4] = {};
    int stage = 0, before = S::STAGES - 1;
    uint32_t parity = 0;
    wgmma_fence();
    for (int k = work.k_begin; k < work.k_end; k += S::BK) {
        const uint32_t lhs = tiles + stage * S::STAGE_BYTES, rhs = lhs + S::LHS_BYTES;
        mbarrier_wait(full + 8 * stage, parity);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < S::BK / 16; step++) {
#pragma unroll
            for (int i = 0; i < S::HEIGHT; i++) {
                wgmma<T, !LHS_K, !RHS_K>(acc[i], L::part(lhs, first_row + 64 * i, step), R::part(rhs, first_col, step));
            }
        }
        wgmma_commit();
        wgmma_wait<1>();  // the products of the tile before are done: it may be overwritten
        if (k > work.k_begin && threadIdx.x % 32 == 0) mbarrier_arrive(empty + 8 * before);
        before = stage;
        if (++stage == S::STAGES) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    const auto meet = [] { asm volatile("bar.sync 1, %0;" ::"n"(S::CONSUMERS) : "memory"); };
    meet();  // every copy was waited for, and every product is done: the ring is free

    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < S::HEIGHT; i++) {
#pragma unroll
        for (int j = 0; j < 16; j++) {
            const int row = first_row + 64 * i + warp % 4 * 16 + g, col = first_col + 8 * j + 2 * t;
            staged_at<S::BN, float2>(ring, row, col) = make_float2(acc[i][j][0], acc[i][j][1]);
            staged_at<S::BN, float2>(ring, row + 8, col) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
    }
    meet();
    finish_tile<T, LHS_K ? FULL : PLAIN, S::BM, S::BN, S::CONSUMERS>(p, work, ring);
}
