// Products on tensor cores, for f16, bf16 (m16n8k16) and tf32 (f32 in memory, m16n8k8), f32 accumulators.
//
// A ring of STAGES tiles is filled by cp.async, with one barrier per tile. A step is 32 bytes of K: 16 halves or 8 floats, one
// mma deep. The fragments of the next step are read while the present ones are multiplied, across the end of a tile too.

#pragma once

#include "matmul_epilogue.cuh"

// The shape of a block's work. A warp computes WM x WN: shared-memory reads per FLOP fall with its size, registers grow.
template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_>
struct Tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, WM = WM_, WN = WN_, STAGES = STAGES_;
    static constexpr bool TENSOR = true;  // read by mma
    static constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
    static_assert(BM % WM == 0 && BN % WN == 0, "warp tiles cover the block's tile");
    static_assert(WM % 16 == 0 && WN % 16 == 0, "a warp multiplies 16 x 16 by pairs of 16 x 8");
};

// What a warp holds of one step: WM / 16 fragments of lhs, WN / 16 pairs of neighbouring fragments of rhs.
template <typename S>
struct Fragments {
    uint32_t lhs[S::WM / 16][4], rhs[S::WN / 16][4];
};

// A K-strided f32 tile has no ldmatrix: four 32-bit reads give the 8x8 quadrants at (line, along) + {0, 4 lines} x {0, 8}.
template <typename Tile>
__device__ __forceinline__ uint32_t read_word(uint32_t tile, int line, int along) {
    uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(tile + Tile::offset(line, along / 4) + along % 4 * 4) : "memory");
    return word;
}

template <typename S, typename Ring, bool LHS_K, bool RHS_K, bool TF32>
__device__ __forceinline__ void read_fragments(
    Fragments<S>& f, uint32_t lhs, uint32_t rhs, int step, int warp_row, int warp_col) {
    using L = typename Ring::L;
    using R = typename Ring::R;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < S::WM / 16; i++) {
        const int first = warp_row + i * 16;
        if constexpr (LHS_K) {
            ldmatrix_x4(f.lhs[i], lhs + L::offset(first + rows_first_row(lane), step * 2 + rows_first_chunk(lane)));
        } else if constexpr (!TF32) {
            ldmatrix_x4_trans(
                f.lhs[i], lhs + L::offset(step * 16 + chunks_first_row(lane), first / 8 + chunks_first_chunk(lane)));
        } else {
#pragma unroll
            for (int q = 0; q < 4; q++) f.lhs[i][q] = read_word<L>(lhs, step * 8 + q / 2 * 4 + t, first + q % 2 * 8 + g);
        }
    }
#pragma unroll
    for (int j = 0; j < S::WN / 16; j++) {
        const int first = warp_col + j * 16;
        if constexpr (RHS_K) {
            ldmatrix_x4(f.rhs[j], rhs + R::offset(first + chunks_first_row(lane), step * 2 + chunks_first_chunk(lane)));
        } else if constexpr (!TF32) {
            ldmatrix_x4_trans(
                f.rhs[j], rhs + R::offset(step * 16 + rows_first_row(lane), first / 8 + rows_first_chunk(lane)));
        } else {
#pragma unroll
            for (int q = 0; q < 4; q++) f.rhs[j][q] = read_word<R>(rhs, step * 8 + q % 2 * 4 + t, first + q / 2 * 8 + g);
        }
    }
    if constexpr (TF32) {
#pragma unroll
        for (int i = 0; i < S::WM / 16; i++)
#pragma unroll
            for (int q = 0; q < 4; q++) f.lhs[i][q] = to_tf32(f.lhs[i][q]);
#pragma unroll
        for (int j = 0; j < S::WN / 16; j++)
#pragma unroll
            for (int q = 0; q < 4; q++) f.rhs[j][q] = to_tf32(f.rhs[j][q]);
    }
}

// T is f16, bf16, or float for tf32.
template <typename T, bool LHS_K, bool RHS_K, typename S>
__device__ __forceinline__ void matmul_tensor(const Problem p) {
    using Tiles = Ring<T, LHS_K, RHS_K, S>;
    constexpr bool TF32 = sizeof(T) == 4;
    constexpr int STEPS = S::BK * sizeof(T) / 32;
    static_assert(STEPS % 2 == 0, "the two fragment buffers alternate across tiles");
    extern __shared__ __align__(128) char smem[];
    const Work work = work_of_block<S::BM, S::BN>(p);
    Tiles ring(p, work, smem);
    const int warp = threadIdx.x / 32;
    const int warp_row = warp / S::WARPS_N * S::WM, warp_col = warp % S::WARPS_N * S::WN;
    const auto read = [&](Fragments<S>& f, int stage, int step) {
        read_fragments<S, Tiles, LHS_K, RHS_K, TF32>(
            f, ring.lhs_tile(stage), ring.rhs_tile(stage), step, warp_row, warp_col);
    };

    float acc[S::WM / 16][S::WN / 8][4] = {};
    if (work.k_begin < work.k_end) {
        ring.fill();
        Fragments<S> fragments[2];
        read(fragments[0], 0, 0);
        int stage = 0, free_stage = S::STAGES - 1;
        for (int k = work.k_begin; k < work.k_end; k += S::BK) {
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                if (step == STEPS - 1) {
                    // Every warp has read this tile's last fragments: behind the barrier it may be overwritten. After the last
                    // tile its own first fragments are read again, and not used.
                    ring.await_next();
                    free_stage = stage;
                    if (k + S::BK < work.k_end) stage = ring.after(stage);
                }
                read(fragments[(step + 1) % 2], stage, (step + 1) % STEPS);
                if (step == 0) ring.load(free_stage);
                const Fragments<S>& f = fragments[step % 2];
#pragma unroll
                for (int i = 0; i < S::WM / 16; i++) {
#pragma unroll
                    for (int j = 0; j < S::WN / 8; j++) {
                        const uint32_t b0 = f.rhs[j / 2][j % 2 * 2], b1 = f.rhs[j / 2][j % 2 * 2 + 1];
                        if constexpr (TF32) mma_m16n8k8_tf32(acc[i][j], f.lhs[i], b0, b1);
                        else mma_m16n8k16<T>(acc[i][j], f.lhs[i], b0, b1);
                    }
                }
            }
        }
        ring.drain();
    }

    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < S::WM / 16; i++) {
#pragma unroll
        for (int j = 0; j < S::WN / 8; j++) {
            const int row = warp_row + i * 16 + g, col = warp_col + j * 8 + 2 * t;
            staged_at<S::BN, float2>(smem, row, col) = make_float2(acc[i][j][0], acc[i][j][1]);
            staged_at<S::BN, float2>(smem, row + 8, col) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
    }
    __syncthreads();
    // tn is for weight gradients: nothing follows them.
    finish_tile<T, LHS_K ? FULL : PLAIN, S::BM, S::BN, S::THREADS>(p, work, smem);
}
