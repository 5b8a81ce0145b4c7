// reduce.cu: sums of all elements, of rows and of columns, each in an order that the sizes alone fix.

#include "common.cuh"

// reduce_partial: partial[b] = sum over the b-th part of inp; reduce_finish adds the parts
// shapes   inp: `count` elements; partial (gridDim) f32
// traffic  reads `count` elements
// launch   grid = number of parts, a function of count alone; 256 threads; `vectors` as in elementwise_binary
// limits   any size
// order    thread t of part b adds elements b*256 + t, then + 256*parts, ...; then a tree over the block
template <typename T>
__device__ __forceinline__ void reduce_partial(float* __restrict__ partial, const T* __restrict__ inp, size_t count,
                                               size_t vectors) {
    constexpr int N = Vec<T>::N;
    __shared__ float slots[WARP];
    float sum = 0.0f;
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        float x[N];
        Vec<T>::load_constant(inp + i * N).unpack(x);
#pragma unroll
        for (int j = 0; j < N; j += 4) sum += (x[j] + x[j + 1]) + (x[j + 2] + x[j + 3]);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) sum += to_f32(inp[i]);
    sum = row_sum(sum, slots, 0, blockDim.x / WARP);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// reduce_finish: out = factor * sum of partial
// shapes   partial (count) f32; out one f32
// traffic  reads `count` floats
// launch   one block of 256 threads
// limits   any size
// order    thread t adds t, t+256, ... in f64; then a tree
extern "C" __global__ void __launch_bounds__(256)
    reduce_finish(float* out, const float* partial, uint32_t count, float factor) {
    __shared__ double slots[WARP];
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) sum += double(partial[i]);
    sum = row_sum(sum, slots, 0, blockDim.x / WARP);
    if (threadIdx.x == 0) *out = float(sum * double(factor));
}

// reduce_rows: out[n] = sum over c of inp[n, c], or out[n] += that
// shapes   inp (N, C) row-major; out (N) f32
// traffic  reads N*C elements
// launch   grid N, 256 threads, a block a row
// limits   N < 2^31; rows of any length and alignment
// order    thread t adds t, t+256, ...; then a tree
template <typename T>
__device__ __forceinline__ void reduce_rows(float* __restrict__ out, const T* __restrict__ inp, size_t cols,
                                            bool accumulate) {
    __shared__ float slots[WARP];
    const T* row = inp + size_t(blockIdx.x) * cols;
    float sum = 0.0f;
    for (size_t c = threadIdx.x; c < cols; c += blockDim.x) sum += to_f32(row[c]);
    sum = row_sum(sum, slots, 0, blockDim.x / WARP);
    if (threadIdx.x == 0) out[blockIdx.x] = accumulate ? out[blockIdx.x] + sum : sum;
}

// reduce_columns: out[a, p, b] = sum of inp[a, r, b] over the p-th part of r, or out += that
// shapes   inp (A, R, B) row-major; out (A, parts, B) f32
// traffic  reads A*R*B elements
// launch   grid (ceil(B/32), parts, A), block (32, 32): a column a lane, 32 rows side by side
// limits   A, parts < 65536
// order    row lane y of a part adds its rows y, y+32, ...; then rows lanes 0 to 31 in order
template <typename T>
__device__ __forceinline__ void reduce_columns(float* __restrict__ out, const T* __restrict__ inp, size_t rows,
                                               size_t cols, size_t rows_per_part, bool accumulate) {
    __shared__ float sums[32][33];
    const size_t col = size_t(blockIdx.x) * 32 + threadIdx.x;
    const size_t first = blockIdx.y * rows_per_part;
    const size_t last = min(first + rows_per_part, rows);
    const T* inp_slice = inp + blockIdx.z * rows * cols;
    float sum = 0.0f;
    if (col < cols) {
#pragma unroll 4
        for (size_t r = first + threadIdx.y; r < last; r += 32) sum += to_f32(inp_slice[r * cols + col]);
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && col < cols) {
        float total = sums[0][threadIdx.x];
#pragma unroll 1
        for (int y = 1; y < 32; ++y) total += sums[y][threadIdx.x];
        float* target = out + (size_t(blockIdx.z) * gridDim.y + blockIdx.y) * cols + col;
        *target = accumulate ? *target + total : total;
    }
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_partial_f32(float* partial, const float* inp, uint64_t count, uint64_t vectors) {
    reduce_partial(partial, inp, count, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_f32(float* out, const float* inp, uint64_t cols, uint32_t accumulate) {
    reduce_rows(out, inp, cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(1024)
    reduce_columns_f32(float* out, const float* inp, uint64_t rows, uint64_t cols, uint64_t rows_per_part,
                     uint32_t accumulate) {
    reduce_columns(out, inp, rows, cols, rows_per_part, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_partial_f16(float* partial, const f16* inp, uint64_t count, uint64_t vectors) {
    reduce_partial(partial, inp, count, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_f16(float* out, const f16* inp, uint64_t cols, uint32_t accumulate) {
    reduce_rows(out, inp, cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(1024)
    reduce_columns_f16(float* out, const f16* inp, uint64_t rows, uint64_t cols, uint64_t rows_per_part,
                     uint32_t accumulate) {
    reduce_columns(out, inp, rows, cols, rows_per_part, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_partial_bf16(float* partial, const bf16* inp, uint64_t count, uint64_t vectors) {
    reduce_partial(partial, inp, count, vectors);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_rows_bf16(float* out, const bf16* inp, uint64_t cols, uint32_t accumulate) {
    reduce_rows(out, inp, cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(1024)
    reduce_columns_bf16(float* out, const bf16* inp, uint64_t rows, uint64_t cols, uint64_t rows_per_part,
                     uint32_t accumulate) {
    reduce_columns(out, inp, rows, cols, rows_per_part, accumulate);
}
