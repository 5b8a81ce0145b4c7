// Rung 4 of the matmul ladder: a thread computes eight rows of a column, and reads rhs once for all of them.
// One idea: sums of TM neighbouring rows live in registers. Per step of K a thread reads one element of rhs and TM of lhs for TM
// multiply-adds: 9/8 reads each instead of 2.
// shapes, limits, order as rung 1
// traffic  2 M N K / 64 floats from global memory
// launch   grid (ceil(N/64), ceil(M/64)), block 512, static shared 4 KB
// what is wrong: lhs is still read once per multiply-add.

#include <cstddef>

constexpr int BM = 64, BN = 64, BK = 8, TM = 8;
constexpr int THREADS = BM * BN / TM;
static_assert(BM * BK == THREADS && BK * BN == THREADS, "a thread loads one element of each tile");

extern "C" __global__ void __launch_bounds__(512) study_matmul_4_rows(
    float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    __shared__ float lhs_tile[BM][BK], rhs_tile[BK][BN];
    const int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN, tid = threadIdx.x;
    const int x = tid % BN, y = tid / BN * TM;  // this thread's column and first row in the tile
    float sums[TM] = {};
    for (int p0 = 0; p0 < k; p0 += BK) {
        const int li = tid / BK, lp = tid % BK, rp = tid / BN, rj = tid % BN;
        lhs_tile[li][lp] = row0 + li < m && p0 + lp < k ? lhs[(size_t)(row0 + li) * k + p0 + lp] : 0.0f;
        rhs_tile[rp][rj] = p0 + rp < k && col0 + rj < n ? rhs[(size_t)(p0 + rp) * n + col0 + rj] : 0.0f;
        __syncthreads();
        for (int p = 0; p < BK; p++) {
            const float b = rhs_tile[p][x];
#pragma unroll
            for (int i = 0; i < TM; i++) sums[i] = fmaf(lhs_tile[y + i][p], b, sums[i]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++) {
        if (row0 + y + i < m && col0 + x < n) out[(size_t)(row0 + y + i) * n + col0 + x] = sums[i];
    }
}
