// Rung 5 of the matmul ladder: a thread computes 8 x 8 sums.
// One idea: register tiles in both directions. Per step of K, 8 + 8 reads feed 64 multiply-adds: 1/4 read each. Shared memory no
// longer holds the FP32 units back.
// shapes, limits, order as rung 1
// traffic  2 M N K / 128 floats from global memory
// launch   grid (ceil(N/128), ceil(M/128)), block 256, static shared 8 KB
// what is wrong: everything moves 4 bytes at a time; columns of lhs_tile and of a thread's rhs lie 8 words apart in shared memory, so
//          reads collide in its banks; a warp waits for global memory at every tile.

#include <cstddef>

constexpr int BM = 128, BN = 128, BK = 8, TM = 8, TN = 8;
constexpr int THREADS = BM / TM * (BN / TN);

extern "C" __global__ void __launch_bounds__(256) study_matmul_5_square(
    float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    __shared__ float lhs_tile[BM][BK], rhs_tile[BK][BN];
    const int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN, tid = threadIdx.x;
    const int y = tid / (BN / TN) * TM, x = tid % (BN / TN) * TN;
    float sums[TM][TN] = {};
    for (int p0 = 0; p0 < k; p0 += BK) {
        for (int at = tid; at < BM * BK; at += THREADS) {
            const int i = at / BK, p = at % BK;
            lhs_tile[i][p] = row0 + i < m && p0 + p < k ? lhs[(size_t)(row0 + i) * k + p0 + p] : 0.0f;
        }
        for (int at = tid; at < BK * BN; at += THREADS) {
            const int p = at / BN, j = at % BN;
            rhs_tile[p][j] = p0 + p < k && col0 + j < n ? rhs[(size_t)(p0 + p) * n + col0 + j] : 0.0f;
        }
        __syncthreads();
        for (int p = 0; p < BK; p++) {
            float a[TM], b[TN];
#pragma unroll
            for (int i = 0; i < TM; i++) a[i] = lhs_tile[y + i][p];
#pragma unroll
            for (int j = 0; j < TN; j++) b[j] = rhs_tile[p][x + j];
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int row = row0 + y + i, col = col0 + x + j;
            if (row < m && col < n) out[(size_t)row * n + col] = sums[i][j];
        }
}
