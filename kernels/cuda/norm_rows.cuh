// norm_rows.cuh: normalisation of rows, with the mean taken off (layernorm) or not (rmsnorm).
//
// Two variants each. The fast one keeps a row in registers as 16-byte vectors and touches memory once; it needs rows of a multiple of 16
// bytes. The `_any` one walks a row element by element, several times: any length, any alignment, a fraction of the speed.

#pragma once

#include "common.cuh"

// Vectors of a row that a thread keeps in the forward pass: with up to 1024 threads a row, rows up to 64 KiB.
constexpr int FORWARD_VECTORS = 4;
// Elements of a row that a thread keeps in the backward pass, which also keeps their columns' sums: rows up to 8192 elements.
constexpr int BACKWARD_ELEMENTS = 8;

// Forward. x = inp, or with a branch x = inp + branch rounded to T and written to h; out = (x - mean) * rstd * weight + bias.
// Block (threads a row, rows a block); rows are as wide as a multiple of Vec::N.
template <typename T, bool CENTRED>
__device__ __forceinline__ void norm_forward(T* __restrict__ out, T* __restrict__ h, float* __restrict__ mean_out,
                                             float* __restrict__ rstd_out, const T* __restrict__ inp,
                                             const T* __restrict__ branch, const T* __restrict__ weight,
                                             const T* __restrict__ bias, size_t rows, uint32_t cols, float inverse_cols,
                                             float eps) {
    constexpr int N = Vec<T>::N;
    __shared__ float mean_slots[WARP], var_slots[WARP];
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps;
    const size_t row = size_t(blockIdx.x) * blockDim.y + threadIdx.y;
    // A thread past the last row, or past the row's end, adds zeros: everybody reaches the barriers.
    const uint32_t vectors = row < rows ? cols / N : 0;
    Vec<T> x[FORWARD_VECTORS];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < FORWARD_VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v < vectors) x[i] = Vec<T>::load_constant(inp + row * cols + v * N);
    }
    if (branch) {
#pragma unroll
        for (int i = 0; i < FORWARD_VECTORS; ++i) {
            const uint32_t v = threadIdx.x + i * blockDim.x;
            if (v >= vectors) continue;
            float a[N], b[N];
            x[i].unpack(a);
            Vec<T>::load_constant(branch + row * cols + v * N).unpack(b);
#pragma unroll
            for (int j = 0; j < N; ++j) a[j] += b[j];
            x[i] = Vec<T>::pack(a);
            x[i].store(h + row * cols + v * N);
        }
    }
    float mean = 0.0f;
    if (CENTRED) {
#pragma unroll
        for (int i = 0; i < FORWARD_VECTORS; ++i) {
            if (threadIdx.x + i * blockDim.x >= vectors) continue;
            float a[N];
            x[i].unpack(a);
#pragma unroll
            for (int j = 0; j < N; j += 4) sum += (a[j] + a[j + 1]) + (a[j + 2] + a[j + 3]);
        }
        mean = row_sum(sum, mean_slots, first_warp, warps) * inverse_cols;
    }
    float square_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < FORWARD_VECTORS; ++i) {
        if (threadIdx.x + i * blockDim.x >= vectors) continue;
        float a[N];
        x[i].unpack(a);
#pragma unroll
        for (int j = 0; j < N; ++j) square_sum = fmaf(a[j] - mean, a[j] - mean, square_sum);
    }
    const float var = row_sum(square_sum, var_slots, first_warp, warps) * inverse_cols;
    const float rstd = rsqrtf(var + eps);
    if (vectors > 0 && threadIdx.x == 0) {
        if (CENTRED) mean_out[row] = mean;
        rstd_out[row] = rstd;
    }
#pragma unroll
    for (int i = 0; i < FORWARD_VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
        float a[N], w[N], b[N];
        x[i].unpack(a);
        Vec<T>::load_constant(weight + v * N).unpack(w);
        if (CENTRED) Vec<T>::load_constant(bias + v * N).unpack(b);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float normalised = (a[j] - mean) * rstd;
            a[j] = CENTRED ? fmaf(normalised, w[j], b[j]) : normalised * w[j];
        }
        Vec<T>::pack(a).store(out + row * cols + v * N);
    }
}

// Forward of rows of any length: a block a row, three walks along it.
template <typename T, bool CENTRED>
__device__ __forceinline__ void norm_forward_any(T* __restrict__ out, T* h, float* __restrict__ mean_out,
                                                 float* __restrict__ rstd_out, const T* inp,
                                                 const T* __restrict__ branch, const T* __restrict__ weight,
                                                 const T* __restrict__ bias, uint32_t cols, float inverse_cols,
                                                 float eps) {
    __shared__ float mean_slots[WARP], var_slots[WARP];
    const int warps = blockDim.x / WARP;
    const size_t start = size_t(blockIdx.x) * cols;
    const T* x = inp + start;
    float sum = 0.0f;
    if (branch) {
        // A thread reads back only what it wrote.
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
            h[start + c] = from_f32<T>(to_f32(x[c]) + to_f32(branch[start + c]));
        }
        x = h + start;
    }
    float mean = 0.0f;
    if (CENTRED) {
        for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) sum += to_f32(x[c]);
        mean = row_sum(sum, mean_slots, 0, warps) * inverse_cols;
    }
    float square_sum = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float centred = to_f32(x[c]) - mean;
        square_sum = fmaf(centred, centred, square_sum);
    }
    const float var = row_sum(square_sum, var_slots, 0, warps) * inverse_cols;
    const float rstd = rsqrtf(var + eps);
    if (threadIdx.x == 0) {
        if (CENTRED) mean_out[blockIdx.x] = mean;
        rstd_out[blockIdx.x] = rstd;
    }
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float normalised = (to_f32(x[c]) - mean) * rstd, w = to_f32(weight[c]);
        out[start + c] = from_f32<T>(CENTRED ? fmaf(normalised, w, to_f32(bias[c])) : normalised * w);
    }
}

// Backward. With x^ = (x - mean) rstd and g = dout weight:  dinp (+)= rstd (g - mean(g) - x^ mean(g x^)), without mean(g) when not
// centred; and per column the block's part of dweight = sum of dout x^ and dbias = sum of dout, into partial (2, blocks, C).
// A block walks rows blockIdx.y.. so that its columns' sums stay in registers to the end.
template <typename T, bool CENTRED>
__device__ __forceinline__ void norm_backward(T* __restrict__ dinp, float* __restrict__ partial,
                                              const T* __restrict__ dout, const T* __restrict__ inp,
                                              const T* __restrict__ weight, const float* __restrict__ mean_in,
                                              const float* __restrict__ rstd_in, uint32_t rows, uint32_t cols,
                                              float inverse_cols, bool accumulate) {
    constexpr int N = Vec<T>::N, VECTORS = BACKWARD_ELEMENTS / N;
    // Two sets of slots: a warp may write the next row's sums while a slow one still reads this row's.
    __shared__ float slots[2][2][WARP];
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, lane = thread % WARP;
    float dweight[VECTORS][N], dbias[VECTORS][N];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) dweight[i][j] = dbias[i][j] = 0.0f;
    }
    Vec<T> scale[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v < cols / N) scale[i] = Vec<T>::load_constant(weight + v * N);
    }
    int parity = 0;
    // Rows and the grid's stride stay below 2^31 (launcher), so their sum below 2^32.
    for (uint32_t base = blockIdx.x * blockDim.y; base < rows; base += gridDim.x * blockDim.y, parity ^= 1) {
        const uint32_t row = base + threadIdx.y;
        const uint32_t vectors = row < rows ? cols / N : 0;
        const float mean = CENTRED && vectors > 0 ? mean_in[row] : 0.0f;
        const float rstd = vectors > 0 ? rstd_in[row] : 0.0f;
        Vec<T> d[VECTORS], x[VECTORS];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const uint32_t v = threadIdx.x + i * blockDim.x;
            if (v >= vectors) continue;
            d[i] = Vec<T>::load_constant(dout + size_t(row) * cols + v * N);
            x[i] = Vec<T>::load_constant(inp + size_t(row) * cols + v * N);
        }
        float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const uint32_t v = threadIdx.x + i * blockDim.x;
            if (v >= vectors) continue;
            scale[i].forget();
#pragma unroll
            for (int k = 0; k < N / 2; ++k) {
                const float2 a = d[i].pair(k), b = x[i].pair(k), w = scale[i].pair(k);
                const float normal0 = (b.x - mean) * rstd, g0 = a.x * w.x;
                const float normal1 = (b.y - mean) * rstd, g1 = a.y * w.y;
                dweight[i][2 * k] = fmaf(a.x, normal0, dweight[i][2 * k]);
                dweight[i][2 * k + 1] = fmaf(a.y, normal1, dweight[i][2 * k + 1]);
                dbias[i][2 * k] += a.x;
                dbias[i][2 * k + 1] += a.y;
                sum_g += g0 + g1;
                sum_gx = fmaf(g1, normal1, fmaf(g0, normal0, sum_gx));
            }
        }
        sum_g = CENTRED ? warp_sum(sum_g) : 0.0f;
        sum_gx = warp_sum(sum_gx);
        if (warps > 1) {
            if (lane == 0) {
                slots[parity][0][thread / WARP] = sum_g;
                slots[parity][1][thread / WARP] = sum_gx;
            }
            __syncthreads();
            if (CENTRED) sum_g = warp_sum(lane < warps ? slots[parity][0][first_warp + lane] : 0.0f);
            sum_gx = warp_sum(lane < warps ? slots[parity][1][first_warp + lane] : 0.0f);
        }
        const float mean_g = sum_g * inverse_cols, mean_gx = sum_gx * inverse_cols;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const uint32_t v = threadIdx.x + i * blockDim.x;
            if (v >= vectors) continue;
            d[i].forget();
            x[i].forget();
            scale[i].forget();
            T* target = dinp + size_t(row) * cols + v * N;
            Vec<T> before;
            if (accumulate) before = Vec<T>::load(target);
            float grad[N];
#pragma unroll
            for (int k = 0; k < N / 2; ++k) {
                const float2 a = d[i].pair(k), b = x[i].pair(k), w = scale[i].pair(k);
                grad[2 * k] = rstd * (fmaf(a.x, w.x, -mean_g) - (b.x - mean) * rstd * mean_gx);
                grad[2 * k + 1] = rstd * (fmaf(a.y, w.y, -mean_g) - (b.y - mean) * rstd * mean_gx);
                if (accumulate) {
                    const float2 old = before.pair(k);
                    grad[2 * k] += old.x;
                    grad[2 * k + 1] += old.y;
                }
            }
            Vec<T>::pack(grad).store(target);
        }
    }
    if (!partial) return;
    // Rows of a block side by side: add theirs in order. A block with several rows has at most 256 threads.
    __shared__ float4 sums[2 * BACKWARD_ELEMENTS / 4][256];
    if (blockDim.y > 1) {
#pragma unroll
        for (int k = 0; k < BACKWARD_ELEMENTS / 4; ++k) {
            const int i = 4 * k / N, j = 4 * k % N;
            sums[k][thread] = make_float4(dweight[i][j], dweight[i][j + 1], dweight[i][j + 2], dweight[i][j + 3]);
            sums[BACKWARD_ELEMENTS / 4 + k][thread] =
                make_float4(dbias[i][j], dbias[i][j + 1], dbias[i][j + 2], dbias[i][j + 3]);
        }
        __syncthreads();
    }
    if (threadIdx.y > 0) return;
#pragma unroll
    for (int k = 0; k < BACKWARD_ELEMENTS / 4; ++k) {
        const int i = 4 * k / N, j = 4 * k % N;
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= cols / N) continue;
        float4 w = make_float4(dweight[i][j], dweight[i][j + 1], dweight[i][j + 2], dweight[i][j + 3]);
        float4 b = make_float4(dbias[i][j], dbias[i][j + 1], dbias[i][j + 2], dbias[i][j + 3]);
#pragma unroll 1
        for (int y = 1; y < blockDim.y; ++y) {
            const float4 more_w = sums[k][y * blockDim.x + threadIdx.x];
            w = make_float4(w.x + more_w.x, w.y + more_w.y, w.z + more_w.z, w.w + more_w.w);
            if (CENTRED) {
                const float4 more_b = sums[BACKWARD_ELEMENTS / 4 + k][y * blockDim.x + threadIdx.x];
                b = make_float4(b.x + more_b.x, b.y + more_b.y, b.z + more_b.z, b.w + more_b.w);
            }
        }
        float* target = partial + size_t(blockIdx.x) * cols + v * N + j;
        *reinterpret_cast<float4*>(target) = w;
        if (CENTRED) *reinterpret_cast<float4*>(target + size_t(gridDim.x) * cols) = b;
    }
}

// dinp of rows of any length: a block a row, two walks along it.
template <typename T, bool CENTRED>
__device__ __forceinline__ void norm_backward_any(T* __restrict__ dinp, const T* __restrict__ dout,
                                                  const T* __restrict__ inp, const T* __restrict__ weight,
                                                  const float* __restrict__ mean_in, const float* __restrict__ rstd_in,
                                                  uint32_t cols, float inverse_cols, bool accumulate) {
    __shared__ float g_slots[WARP], gx_slots[WARP];
    const int warps = blockDim.x / WARP;
    const size_t start = size_t(blockIdx.x) * cols;
    const float mean = CENTRED ? mean_in[blockIdx.x] : 0.0f, rstd = rstd_in[blockIdx.x];
    float sum_g = 0.0f, sum_gx = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float g = to_f32(dout[start + c]) * to_f32(weight[c]);
        sum_g += g;
        sum_gx = fmaf(g, (to_f32(inp[start + c]) - mean) * rstd, sum_gx);
    }
    const float mean_g = CENTRED ? row_sum(sum_g, g_slots, 0, warps) * inverse_cols : 0.0f;
    const float mean_gx = row_sum(sum_gx, gx_slots, 0, warps) * inverse_cols;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float normalised = (to_f32(inp[start + c]) - mean) * rstd;
        const float g = to_f32(dout[start + c]) * to_f32(weight[c]);
        const float grad = rstd * (g - mean_g - normalised * mean_gx);
        T* target = dinp + start + c;
        *target = from_f32<T>(accumulate ? to_f32(*target) + grad : grad);
    }
}

// The parameters' part of the any variant: block b adds rows b, b + blocks, ... of a column a thread, into partial (2, blocks, C).
template <typename T, bool CENTRED>
__device__ __forceinline__ void norm_backward_parameters_any(float* __restrict__ partial, const T* __restrict__ dout,
                                                             const T* __restrict__ inp,
                                                             const float* __restrict__ mean_in,
                                                             const float* __restrict__ rstd_in, size_t rows,
                                                             uint32_t cols) {
    const size_t c = size_t(blockIdx.y) * blockDim.x + threadIdx.x;
    if (c >= cols) return;
    float dweight = 0.0f, dbias = 0.0f;
    for (size_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float d = to_f32(dout[row * cols + c]), mean = CENTRED ? mean_in[row] : 0.0f;
        dweight = fmaf(d, (to_f32(inp[row * cols + c]) - mean) * rstd_in[row], dweight);
        dbias += d;
    }
    float* target = partial + size_t(blockIdx.x) * cols + c;
    *target = dweight;
    if (CENTRED) target[size_t(gridDim.x) * cols] = dbias;
}

// Adds the blocks' parts in order: dweight (+)= sum over b of partial[0, b], dbias (+)= sum over b of partial[1, b].
// Grid (ceil(C/32), 1 or 2), block (32, 32); blockIdx.y picks the gradient, null when nobody wants it.
__device__ __forceinline__ void norm_parameters(float* dweight, float* dbias, const float* __restrict__ partial,
                                                uint32_t blocks, uint32_t cols, bool accumulate_weight,
                                                bool accumulate_bias) {
    __shared__ float sums[32][33];
    float* target = blockIdx.y == 0 ? dweight : dbias;
    const bool accumulate = blockIdx.y == 0 ? accumulate_weight : accumulate_bias;
    const uint32_t c = blockIdx.x * 32 + threadIdx.x;
    partial += size_t(blockIdx.y) * blocks * cols;
    float sum = 0.0f;
    if (c < cols) {
#pragma unroll 4
        for (uint32_t b = threadIdx.y; b < blocks; b += 32) sum += partial[size_t(b) * cols + c];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= cols || !target) return;
    float total = sums[0][threadIdx.x];
#pragma unroll 1
    for (int y = 1; y < 32; ++y) total += sums[y][threadIdx.x];
    target[c] = accumulate ? target[c] + total : total;
}
