// matmul_{nn,nt,tn}_<tile>_f32: out[b] = epilogue(lhs[b] rhs[b]) in true f32: one FFMA per product and no tensor cores.
//   nn: lhs (M, K), rhs (K, N)    nt: lhs (M, K), rhs stored (N, K)    tn: lhs stored (K, M), rhs (K, N), no activation
// shapes   out (M, N) f32; bias (N); residual, pre (M, N) as out; batches at equal distances
// traffic  M K + K N + M N elements at best; a tile reads K (BM + BN) of them for 2 K BM BN FLOP
// launch   grid (tiles, splits, batches), block 256 or 128 threads, dynamic shared STAGES (BM + BN) BK 4 bytes
// limits   operands and their strides 16-byte aligned (the launcher sends others to matmul_any); any M, N, K
// order    along K, one product at a time by one thread per element; splits are summed in order by matmul_split_sum: bitwise repeatable
// source   ladder in study/, docs/src/ops/matmul.md; the parts are in matmul_tile.cuh, matmul_epilogue.cuh

#include "matmul_epilogue.cuh"

// The shape of a block's work. A warp computes WM x WN with 4 x 8 threads; a thread holds WM / 4 x WN / 8 sums, so that 16 values
// read from shared memory feed 64 multiply-adds in the larger tile.
template <int BM_, int BN_, int BK_, int WM_, int WN_, int STAGES_>
struct Tile {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, WM = WM_, WN = WN_, STAGES = STAGES_;
    static constexpr bool TENSOR = false;
    static constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
    static constexpr int TM = WM / 4, TN = WN / 8;
    static_assert(BM % WM == 0 && BN % WN == 0, "warp tiles cover the block's tile");
    static_assert(TM % 4 == 0 && TN % 4 == 0, "a thread reads four neighbours at a time");
    static_assert(BK % 2 == 0, "K goes in pairs");
};
using Tile128x128 = Tile<128, 128, 16, 32, 64, 4>;  // 64 KB of shared memory: two blocks of 8 warps on an SM
using Tile64x64 = Tile<64, 64, 16, 32, 32, 4>;      // 32 KB: four blocks of 4 warps

// Which row (or column) of its warp's tile is a thread's i-th, with LANES threads along it: without bank conflicts either way.
// What is K-strided is read four neighbours at a time. What is contiguous along K is read two deep: 8 lanes read 8 neighbouring lines,
// 4 lanes 4 lines that are two apart, so that a thread's lines are swizzled alike (one address instead of two).
template <bool CONTIGUOUS_K, int LANES>
__device__ __forceinline__ int owned(int lane, int i) {
    if (!CONTIGUOUS_K) return i / 4 * (4 * LANES) + lane * 4 + i % 4;
    return LANES == 8 ? i * LANES + lane : i / 2 * (2 * LANES) + lane * 2 + i % 2;
}

// values[q][i] = the operand at K = k + q and this thread's i-th row or column, for two q. K-contiguous
// values come two at a time: with four, the wait for them would take more registers than two blocks on an SM leave.
template <typename Tile, bool CONTIGUOUS_K, int LANES, int I>
__device__ __forceinline__ void read_values(float (&values)[2][I], const char* tile, int k, int first, int lane) {
    if constexpr (CONTIGUOUS_K) {
#pragma unroll
        for (int i = 0; i < I; i++) {
            const uint32_t at = Tile::offset(first + owned<true, LANES>(lane, i), k / 4) + k % 4 * 4;
            const float2 two = *reinterpret_cast<const float2*>(tile + at);
            values[0][i] = two.x, values[1][i] = two.y;
        }
    } else {
#pragma unroll
        for (int q = 0; q < 2; q++) {
#pragma unroll
            for (int i = 0; i < I; i += 4) {
                const uint32_t at = Tile::offset(k + q, (first + owned<false, LANES>(lane, i)) / 4);
                const float4 four = *reinterpret_cast<const float4*>(tile + at);
                values[q][i] = four.x, values[q][i + 1] = four.y, values[q][i + 2] = four.z, values[q][i + 3] = four.w;
            }
        }
    }
}

template <bool LHS_K, bool RHS_K, typename S>
__device__ __forceinline__ void matmul_simt(const Problem p) {
    using Tiles = Ring<float, LHS_K, RHS_K, S>;
    extern __shared__ __align__(128) char smem[];
    const Work work = work_of_block<S::BM, S::BN>(p);
    Tiles ring(p, work, smem);
    const int warp = threadIdx.x / 32, lane_row = threadIdx.x % 32 / 8, lane_col = threadIdx.x % 8;
    const int warp_row = warp / S::WARPS_N * S::WM, warp_col = warp % S::WARPS_N * S::WN;

    float acc[S::TM][S::TN] = {};
    if (work.k_begin < work.k_end) {
        ring.fill();
        int stage = 0, free_stage = S::STAGES - 1;
        while (ring.more()) {
            ring.load(free_stage);
            const char* lhs = smem + stage * Tiles::STAGE_BYTES;
            const char* rhs = lhs + Tiles::L::BYTES;
            // Unrolled further, reads under way need more registers than two blocks on an SM leave.
#pragma unroll 2
            for (int two = 0; two < S::BK; two += 2) {
                float a[2][S::TM], b[2][S::TN];
                read_values<typename Tiles::L, LHS_K, 4>(a, lhs, two, warp_row, lane_row);
                read_values<typename Tiles::R, RHS_K, 8>(b, rhs, two, warp_col, lane_col);
#pragma unroll
                for (int q = 0; q < 2; q++)
#pragma unroll
                    for (int i = 0; i < S::TM; i++)
#pragma unroll
                        for (int j = 0; j < S::TN; j++) acc[i][j] = fmaf(a[q][i], b[q][j], acc[i][j]);
            }
            ring.await_next();
            free_stage = stage;
            stage = ring.after(stage);
        }
        ring.drain();
    }

#pragma unroll
    for (int i = 0; i < S::TM; i++) {
        const int row = warp_row + owned<LHS_K, 4>(lane_row, i);
#pragma unroll
        for (int j = 0; j < S::TN; j += RHS_K ? 1 : 4) {
            const int col = warp_col + owned<RHS_K, 8>(lane_col, j);
            if constexpr (RHS_K) staged_at<S::BN>(smem, row, col) = acc[i][j];
            else staged_at<S::BN, float4>(smem, row, col) = make_float4(acc[i][j], acc[i][j + 1], acc[i][j + 2], acc[i][j + 3]);
        }
    }
    __syncthreads();
    // tn is for weight gradients: nothing follows them.
    finish_tile<float, LHS_K ? FULL : PLAIN, S::BM, S::BN, S::THREADS>(p, work, smem);
}

extern "C" __global__ void __launch_bounds__(256, 2) matmul_nn_128x128_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_CONTIGUOUS, K_STRIDED, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(256, 2) matmul_nt_128x128_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_CONTIGUOUS, K_CONTIGUOUS, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(256, 2) matmul_tn_128x128_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_STRIDED, K_STRIDED, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 4) matmul_nn_64x64_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_CONTIGUOUS, K_STRIDED, Tile64x64>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 4) matmul_nt_64x64_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_CONTIGUOUS, K_CONTIGUOUS, Tile64x64>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 4) matmul_tn_64x64_f32(MATMUL_PARAMETERS) {
    matmul_simt<K_STRIDED, K_STRIDED, Tile64x64>(MATMUL_PROBLEM);
}
