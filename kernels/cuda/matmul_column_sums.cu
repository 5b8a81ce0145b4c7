// matmul_column_sums_{f32,f16,bf16}: sums[c] (+)= sum over rows r of inp[r, c]: the gradient of a linear layer's bias.
// shapes   inp (M, N) row-major without gaps; sums (N) f32; partials (row blocks, N) f32
// traffic  reads M N elements, writes N floats per row block, and reads those again when there are several
// launch   grid (ceil(N / 256), row blocks), block (32, 8); a thread sums 8 neighbouring columns of every 8th row of its row block
// limits   none; 16-byte loads when N and inp are aligned
// order    rows r, r + 8, r + 16, .. by one thread, then the 8 threads of a column, then row blocks, each in ascending order
// source   definition: d sum_r(x[r, c] + b[c]) / d b[c]

#include "common.cuh"

constexpr int COLS = 8;                // of a thread
constexpr int LANES = 32, GROUPS = 8;  // of a block: threads along columns, along rows

template <typename T>
__device__ __forceinline__ void add_row(float (&sums)[COLS], const T* row, int left, bool aligned) {
    if (aligned) {
#pragma unroll
        for (int i = 0; i < COLS; i += Vec<T>::N) {
            float values[Vec<T>::N];
            Vec<T>::load(row + i).unpack(values);
#pragma unroll
            for (int j = 0; j < Vec<T>::N; j++) sums[i + j] += values[j];
        }
    } else {
#pragma unroll
        for (int i = 0; i < COLS; i++) sums[i] += i < left ? to_f32(row[i]) : 0.0f;
    }
}

// Sums of rows first .. first + count of this block's columns into `out`.
template <typename T>
__device__ __forceinline__ void sum_rows(float* out, const T* inp, int first, int count, int n, bool aligned, bool accumulate) {
    __shared__ float smem[GROUPS][LANES * COLS + 1];
    const int col = (blockIdx.x * LANES + threadIdx.x) * COLS;
    float sums[COLS] = {};
    if (col < n) {
        for (int r = threadIdx.y; r < count; r += GROUPS) {
            add_row(sums, inp + (size_t)(first + r) * n + col, n - col, aligned && col + COLS <= n);
        }
    }
#pragma unroll
    for (int i = 0; i < COLS; i++) smem[threadIdx.y][threadIdx.x + i * LANES] = sums[i];
    __syncthreads();
    // Thread (x, y) finishes column y of lane x's eight.
    const int mine = col + threadIdx.y;
    if (mine < n) {
        float sum = 0.0f;
#pragma unroll
        for (int group = 0; group < GROUPS; group++) sum += smem[group][threadIdx.x + threadIdx.y * LANES];
        out[mine] = accumulate ? out[mine] + sum : sum;
    }
    static_assert(GROUPS == COLS, "as many threads finish a lane's columns as there are");
}

template <typename T>
__device__ __forceinline__ void matmul_column_sums(
    float* out, const T* inp, int m, int n, int rows_per_block, unsigned aligned, unsigned accumulate) {
    const int first = blockIdx.y * rows_per_block;
    sum_rows(out + (size_t)blockIdx.y * n, inp, first, min(m - first, rows_per_block), n, aligned, accumulate);
}

// out is (gridDim.y, N); accumulate goes with a single row block.
extern "C" __global__ void __launch_bounds__(256) matmul_column_sums_f32(
    float* out, const float* inp, int m, int n, int rows_per_block, unsigned aligned, unsigned accumulate) {
    matmul_column_sums(out, inp, m, n, rows_per_block, aligned, accumulate);
}
extern "C" __global__ void __launch_bounds__(256) matmul_column_sums_f16(
    float* out, const f16* inp, int m, int n, int rows_per_block, unsigned aligned, unsigned accumulate) {
    matmul_column_sums(out, inp, m, n, rows_per_block, aligned, accumulate);
}
extern "C" __global__ void __launch_bounds__(256) matmul_column_sums_bf16(
    float* out, const bf16* inp, int m, int n, int rows_per_block, unsigned aligned, unsigned accumulate) {
    matmul_column_sums(out, inp, m, n, rows_per_block, aligned, accumulate);
}
