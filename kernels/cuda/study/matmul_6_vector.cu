// Rung 6 of the matmul ladder: 16 bytes at a time, and no collisions.
// One idea: float4 everywhere. The tile of lhs is transposed on its way into shared memory, so that a thread's rows are neighbours;
// a thread's 8 rows and 8 columns become 4 + 4, 64 apart, so that eight neighbouring threads read 128 neighbouring bytes.
// shapes, order as rung 1
// traffic  as rung 5, in a quarter of the instructions
// launch   grid (ceil(N/128), ceil(M/128)), block 256, static shared 8.25 KB
// limits   N and K multiples of 4, 16-byte aligned (launcher checks); any M
// what is wrong: a block still waits for global memory at every tile, twice: no load is under way while it multiplies. The next rung,
//          the production kernel (matmul_f32.cu), keeps three tiles under way with cp.async, swizzles instead of padding,
//          numbers its blocks for the L2 cache, and stores through shared memory.

#include <cstddef>

constexpr int BM = 128, BN = 128, BK = 8;
constexpr int LINE = BM + 4;  // of the transposed tile: its stores walk down a column, and padding keeps them apart

__device__ __forceinline__ float4 load4(const float* from, bool inside) {
    return inside ? *reinterpret_cast<const float4*>(from) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

extern "C" __global__ void __launch_bounds__(256) study_matmul_6_vector(
    float* out, const float* lhs, const float* rhs, int m, int n, int k) {
    __shared__ __align__(16) float lhs_tile[BK][LINE], rhs_tile[BK][BN];
    const int row0 = blockIdx.y * BM, col0 = blockIdx.x * BN, tid = threadIdx.x;
    const int y = tid / 16 * 4, x = tid % 16 * 4;  // first of this thread's rows y .. y+3, y+64 .. and columns
    float sums[8][8] = {};
    for (int p0 = 0; p0 < k; p0 += BK) {
        {
            const int i = tid / 2, p = tid % 2 * 4;
            const float4 v = load4(lhs + (size_t)(row0 + i) * k + p0 + p, row0 + i < m && p0 + p < k);
            lhs_tile[p][i] = v.x, lhs_tile[p + 1][i] = v.y, lhs_tile[p + 2][i] = v.z, lhs_tile[p + 3][i] = v.w;
        }
        {
            const int p = tid / 32, j = tid % 32 * 4;
            const bool inside = p0 + p < k && col0 + j < n;
            *reinterpret_cast<float4*>(&rhs_tile[p][j]) = load4(rhs + (size_t)(p0 + p) * n + col0 + j, inside);
        }
        __syncthreads();
        for (int p = 0; p < BK; p++) {
            float a[8], b[8];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float4 u = *reinterpret_cast<const float4*>(&lhs_tile[p][y + h * 64]);
                const float4 v = *reinterpret_cast<const float4*>(&rhs_tile[p][x + h * 64]);
                a[4 * h] = u.x, a[4 * h + 1] = u.y, a[4 * h + 2] = u.z, a[4 * h + 3] = u.w;
                b[4 * h] = v.x, b[4 * h + 1] = v.y, b[4 * h + 2] = v.z, b[4 * h + 3] = v.w;
            }
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = row0 + y + i / 4 * 64 + i % 4, col = col0 + x + h * 64;
            if (row < m && col < n) {
                *reinterpret_cast<float4*>(out + (size_t)row * n + col) =
                    make_float4(sums[i][4 * h], sums[i][4 * h + 1], sums[i][4 * h + 2], sums[i][4 * h + 3]);
            }
        }
}
