// Rung 2 of the matmul ladder: neighbouring threads take neighbouring columns.
// One idea: x runs along columns. A warp reads 32 neighbours of a row of rhs (one 128-byte line), one element of lhs (a broadcast),
// and writes one line of out.
// shapes, limits, order as rung 1
// traffic  2 M N K floats asked of the caches still, now in full lines: about 1/8 of the sectors of rung 1
// launch   grid (ceil(N/32), ceil(M/32)), block (32, 32): x runs along columns
// what is wrong: each element of lhs is read N times, each of rhs M times, every time from a cache.

#include <cstddef>

extern "C" __global__ void study_matmul_2_coalesced(float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    const int i = blockIdx.y * 32 + threadIdx.y, j = blockIdx.x * 32 + threadIdx.x;
    if (i >= m || j >= n) return;
    float sum = 0.0f;
    for (int p = 0; p < k; p++) sum = fmaf(lhs[(size_t)i * k + p], rhs[(size_t)p * n + j], sum);
    out[(size_t)i * n + j] = sum;
}
