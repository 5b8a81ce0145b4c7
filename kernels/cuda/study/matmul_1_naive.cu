// Rung 1 of the matmul ladder: out[i, j] = sum over p of lhs[i, p] rhs[p, j], one thread per element, straight from the formula.
// shapes   out (M, N), lhs (M, K), rhs (K, N) row-major f32, without gaps
// traffic  every thread reads a row of lhs and a column of rhs: 2 M N K floats asked of the caches, for 2 M N K FLOP
// launch   grid (ceil(M/32), ceil(N/32)), block (32, 32): x runs along rows
// limits   none
// order    along K, one product at a time
// what is wrong: neighbouring threads (x) have neighbouring rows, so a warp's loads of lhs and its stores touch 32 lines at once,
//          4 bytes of each.

#include <cstddef>

extern "C" __global__ void study_matmul_1_naive(float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    const int i = blockIdx.x * 32 + threadIdx.x, j = blockIdx.y * 32 + threadIdx.y;
    if (i >= m || j >= n) return;
    float sum = 0.0f;
    for (int p = 0; p < k; p++) sum = fmaf(lhs[(size_t)i * k + p], rhs[(size_t)p * n + j], sum);
    out[(size_t)i * n + j] = sum;
}
