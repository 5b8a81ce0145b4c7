// Tensor-core kernels for sm_80: bf16 matmul with cp.async, ldmatrix and mma.sync, and one warp of every mma shape.
#include <cuda_bf16.h>
#include <cstdint>

__device__ __forceinline__ void copy_async16(uint32_t dst, const void* src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

// C (M, N) f32 = A (M, K) bf16 row-major times B (K, N) bf16 row-major. Block 64 x 64, four warps of 32 x 32, K in steps
// of 32 through two stages of shared memory. M, N multiples of 64, K of 32.
extern "C" __global__ void __launch_bounds__(128) matmul_bf16(float* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int m, int n, int k) {
    constexpr int LDA = 40, LDB = 72;  // padded rows: ldmatrix without bank conflicts
    __shared__ __align__(16) __nv_bfloat16 smem_a[2][64 * LDA], smem_b[2][32 * LDB];
    int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64, wr = (warp >> 1) * 32, wc = (warp & 1) * 32;
    auto load = [&](int stage, int start) {
        for (int i = tid; i < 256; i += 128) {
            int r = i >> 2, q = (i & 3) * 8;
            copy_async16((uint32_t)__cvta_generic_to_shared(&smem_a[stage][r * LDA + q]), a + (size_t)(row0 + r) * k + start + q);
        }
        for (int i = tid; i < 256; i += 128) {
            int r = i >> 3, q = (i & 7) * 8;
            copy_async16((uint32_t)__cvta_generic_to_shared(&smem_b[stage][r * LDB + q]), b + (size_t)(start + r) * n + col0 + q);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    float acc[2][4][4] = {};
    load(0, 0);
    for (int start = 0, stage = 0; start < k; start += 32, stage ^= 1) {
        if (start + 32 < k) {
            load(stage ^ 1, start + 32);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t fa[2][4], fb[4][2];
            for (int i = 0; i < 2; i++) {
                uint32_t p = (uint32_t)__cvta_generic_to_shared(&smem_a[stage][(wr + i * 16 + (lane & 15)) * LDA + kk + (lane >> 4) * 8]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(fa[i][0]), "=r"(fa[i][1]), "=r"(fa[i][2]), "=r"(fa[i][3]) : "r"(p));
            }
            for (int j = 0; j < 2; j++) {
                uint32_t p = (uint32_t)__cvta_generic_to_shared(&smem_b[stage][(kk + (lane & 15)) * LDB + wc + j * 16 + (lane >> 4) * 8]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(fb[2 * j][0]), "=r"(fb[2 * j][1]), "=r"(fb[2 * j + 1][0]), "=r"(fb[2 * j + 1][1]) : "r"(p));
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                                 : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
                                 : "r"(fa[i][0]), "r"(fa[i][1]), "r"(fa[i][2]), "r"(fa[i][3]), "r"(fb[j][0]), "r"(fb[j][1]));
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++) {
            int row = row0 + wr + i * 16 + (lane >> 2), col = col0 + wc + j * 8 + (lane & 3) * 2;
            *(float2*)(c + (size_t)row * n + col) = make_float2(acc[i][j][0], acc[i][j][1]);
            *(float2*)(c + (size_t)(row + 8) * n + col) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
}

// movmatrix: the transpose of an 8x8 matrix of 16-bit elements held one register per lane.
extern "C" __global__ void transpose8(unsigned* out, const unsigned* inp) {
    unsigned d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(inp[threadIdx.x]));
    out[threadIdx.x] = d;
}
