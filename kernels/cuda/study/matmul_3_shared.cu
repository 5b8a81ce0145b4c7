// Rung 3 of the matmul ladder: a block brings tiles to shared memory once, and reads them 32 times there.
// One idea: K in steps of 32; the 32 x 32 threads of a block load a 32 x 32 tile of lhs and of rhs together.
// shapes, limits, order as rung 1
// traffic  2 M N K / 32 floats from global memory; from shared memory still two reads per multiply-add
// launch   grid (ceil(N/32), ceil(M/32)), block (32, 32), static shared 8 KB
// what is wrong: two shared-memory reads per multiply-add; shared memory gives 32 floats a cycle, the FP32 units want 64 pairs.

#include <cstddef>

constexpr int TILE = 32;

extern "C" __global__ void study_matmul_3_shared(float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    __shared__ float lhs_tile[TILE][TILE], rhs_tile[TILE][TILE];
    const int y = threadIdx.y, x = threadIdx.x;
    const int i = blockIdx.y * TILE + y, j = blockIdx.x * TILE + x;
    float sum = 0.0f;
    for (int p0 = 0; p0 < k; p0 += TILE) {
        // Past the matrices: zeros, which add nothing. No thread leaves early, since all meet at the barriers.
        lhs_tile[y][x] = i < m && p0 + x < k ? lhs[(size_t)i * k + p0 + x] : 0.0f;
        rhs_tile[y][x] = p0 + y < k && j < n ? rhs[(size_t)(p0 + y) * n + j] : 0.0f;
        __syncthreads();
        for (int p = 0; p < TILE; p++) sum = fmaf(lhs_tile[y][p], rhs_tile[p][x], sum);
        __syncthreads();
    }
    if (i < m && j < n) out[(size_t)i * n + j] = sum;
}
