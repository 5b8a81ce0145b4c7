// softmax.cu: softmax over the last dimension, forward and backward.

#include "common.cuh"

// Largest over neighbouring warps that share a row, in every thread; as row_sum.
__device__ __forceinline__ float row_max(float x, float* slots, int first, int warps) {
    x = warp_max(x);
    if (warps == 1) return x;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread % WARP == 0) slots[thread / WARP] = x;
    __syncthreads();
    return warp_max(thread % WARP < warps ? slots[first + thread % WARP] : NEGATIVE_INFINITY);
}

// Vectors of a row that a thread keeps: with up to 1024 threads a row, rows up to 64 KiB.
constexpr int VECTORS = 4;

// softmax_forward: out[n,c] = e^(scale x[n,c] - m) / sum over j of e^(scale x[n,j] - m), m the row's maximum
//   A row of -infinity alone gives zeros.
// shapes   out, x (N, C) row-major
// traffic  reads and writes N*C elements
// launch   block (32 W, R): W warps a row, R rows a block, grid ceil(N/R)
// limits   C a multiple of 16 bytes, C <= 4 * 32 W vectors of 16 bytes, 16-byte aligned arrays; any N (guarded)
// order    a thread's elements in order, a butterfly over the warp, another over the warps
// source   Bridle 1990
//
// softmax_forward_any: this and softmax_forward_masked for any C and alignment; a block of 256 threads a row, three walks along it
template <typename T>
__device__ __forceinline__ void softmax_forward(T* __restrict__ out, const T* __restrict__ inp, size_t rows,
                                                uint32_t cols, float scale) {
    constexpr int N = Vec<T>::N;
    __shared__ float max_slots[WARP], sum_slots[WARP];
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps;
    const size_t row = size_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const uint32_t vectors = row < rows ? cols / N : 0;
    Vec<T> x[VECTORS];
    float largest = NEGATIVE_INFINITY;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v < vectors) x[i] = Vec<T>::load_constant(inp + row * cols + v * N);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (threadIdx.x + i * blockDim.x >= vectors) continue;
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            const float2 a = x[i].pair(k);
            largest = fmaxf(largest, fmaxf(a.x * scale, a.y * scale));
        }
    }
    largest = row_max(largest, max_slots, first_warp, warps);
    const float shift = largest == NEGATIVE_INFINITY ? 0.0f : largest;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (threadIdx.x + i * blockDim.x >= vectors) continue;
        x[i].forget();
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            const float2 a = x[i].pair(k);
            sum += expf(a.x * scale - shift) + expf(a.y * scale - shift);
        }
    }
    sum = row_sum(sum, sum_slots, first_warp, warps);
    const float inverse = sum == 0.0f ? 0.0f : __fdividef(1.0f, sum);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
        x[i].forget();
        float y[N];
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            const float2 a = x[i].pair(k);
            y[2 * k] = expf(a.x * scale - shift) * inverse;
            y[2 * k + 1] = expf(a.y * scale - shift) * inverse;
        }
        Vec<T>::pack(y).store(out + row * cols + v * N);
    }
}

// The mask of a softmax: null pointers are none. Row n has row n / repeat % count of it.
template <typename T> struct Mask {
    const int32_t* keys;  // 0 hides an element
    const T* added;       // to the scaled element
    uint32_t repeat, count;

    __device__ __forceinline__ size_t row(size_t n) const { return n / repeat % count; }
    __device__ __forceinline__ float score(float x, float scale, size_t at) const {
        const float score = fmaf(x, scale, added == nullptr ? 0.0f : to_f32(added[at]));
        return keys != nullptr && keys[at] == 0 ? NEGATIVE_INFINITY : score;
    }
};

// softmax_forward_masked: as softmax_forward, of scale x + mask, or without what the mask hides; a row that sees nothing gives zeros
// shapes   as softmax_forward; mask (count, C): i32 of which 0 hides, or of T to be added
// traffic  reads x and the mask's row, writes N*C elements
// launch, order, source as softmax_forward
// limits   as softmax_forward, and 16-byte aligned masks
template <typename T>
__device__ __forceinline__ void softmax_forward_masked(T* __restrict__ out, const T* __restrict__ inp, size_t rows,
                                                       uint32_t cols, float scale, const Mask<T>& mask) {
    constexpr int N = Vec<T>::N;
    __shared__ float max_slots[WARP], sum_slots[WARP];
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps;
    const size_t row = size_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const uint32_t vectors = row < rows ? cols / N : 0;
    const size_t mask_row = mask.row(row) * cols;
    float s[VECTORS][N];
    float largest = NEGATIVE_INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
        Vec<T>::load_constant(inp + row * cols + v * N).unpack(s[i]);
        float added[N] = {};
        if (mask.added != nullptr) Vec<T>::load_constant(mask.added + mask_row + v * N).unpack(added);
#pragma unroll
        for (int k = 0; k < N; ++k) s[i][k] = fmaf(s[i][k], scale, added[k]);
        if (mask.keys != nullptr) {
#pragma unroll
            for (int k = 0; k < N; k += 4) {
                const int4 seen = __ldg(reinterpret_cast<const int4*>(mask.keys + mask_row + v * N + k));
                if (seen.x == 0) s[i][k] = NEGATIVE_INFINITY;
                if (seen.y == 0) s[i][k + 1] = NEGATIVE_INFINITY;
                if (seen.z == 0) s[i][k + 2] = NEGATIVE_INFINITY;
                if (seen.w == 0) s[i][k + 3] = NEGATIVE_INFINITY;
            }
        }
#pragma unroll
        for (int k = 0; k < N; ++k) largest = fmaxf(largest, s[i][k]);
    }
    largest = row_max(largest, max_slots, first_warp, warps);
    const float shift = largest == NEGATIVE_INFINITY ? 0.0f : largest;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (threadIdx.x + i * blockDim.x >= vectors) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            s[i][k] = expf(s[i][k] - shift);
            sum += s[i][k];
        }
    }
    sum = row_sum(sum, sum_slots, first_warp, warps);
    const float inverse = sum == 0.0f ? 0.0f : __fdividef(1.0f, sum);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
#pragma unroll
        for (int k = 0; k < N; ++k) s[i][k] *= inverse;
        Vec<T>::pack(s[i]).store(out + row * cols + v * N);
    }
}

template <typename T>
__device__ __forceinline__ void softmax_forward_any(T* __restrict__ out, const T* __restrict__ inp, uint32_t cols,
                                                    float scale, const Mask<T>& mask) {
    __shared__ float max_slots[WARP], sum_slots[WARP];
    const int warps = blockDim.x / WARP;
    const size_t start = size_t(blockIdx.x) * cols, mask_row = mask.row(blockIdx.x) * cols;
    const auto score = [&](uint32_t c) { return mask.score(to_f32(inp[start + c]), scale, mask_row + c); };
    float largest = NEGATIVE_INFINITY, sum = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) largest = fmaxf(largest, score(c));
    largest = row_max(largest, max_slots, 0, warps);
    const float shift = largest == NEGATIVE_INFINITY ? 0.0f : largest;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) sum += expf(score(c) - shift);
    sum = row_sum(sum, sum_slots, 0, warps);
    const float inverse = sum == 0.0f ? 0.0f : __fdividef(1.0f, sum);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        out[start + c] = from_f32<T>(expf(score(c) - shift) * inverse);
    }
}

// softmax_backward: dinp[n,c] = scale out[n,c] (dout[n,c] - sum over j of dout[n,j] out[n,j]), or dinp += that
// shapes   dinp, dout, out (N, C) row-major
// traffic  reads 2 N*C (3 with accumulate), writes N*C elements
// launch, limits, order, source as softmax_forward; softmax_backward_any for any C and alignment
template <typename T>
__device__ __forceinline__ void softmax_backward(T* __restrict__ dinp, const T* __restrict__ dout,
                                                 const T* __restrict__ out, size_t rows, uint32_t cols, float scale,
                                                 bool accumulate) {
    constexpr int N = Vec<T>::N;
    __shared__ float slots[WARP];
    const int warps = blockDim.x / WARP, first_warp = threadIdx.y * warps;
    const size_t row = size_t(blockIdx.x) * blockDim.y + threadIdx.y;
    const uint32_t vectors = row < rows ? cols / N : 0;
    Vec<T> d[VECTORS], p[VECTORS];
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
        d[i] = Vec<T>::load_constant(dout + row * cols + v * N);
        p[i] = Vec<T>::load_constant(out + row * cols + v * N);
    }
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        if (threadIdx.x + i * blockDim.x >= vectors) continue;
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            const float2 a = d[i].pair(k), b = p[i].pair(k);
            dot = fmaf(a.y, b.y, fmaf(a.x, b.x, dot));
        }
    }
    dot = row_sum(dot, slots, first_warp, warps);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const uint32_t v = threadIdx.x + i * blockDim.x;
        if (v >= vectors) continue;
        d[i].forget();
        p[i].forget();
        T* target = dinp + row * cols + v * N;
        Vec<T> before;
        if (accumulate) before = Vec<T>::load(target);
        float y[N];
#pragma unroll
        for (int k = 0; k < N / 2; ++k) {
            const float2 a = d[i].pair(k), b = p[i].pair(k);
            y[2 * k] = scale * b.x * (a.x - dot);
            y[2 * k + 1] = scale * b.y * (a.y - dot);
            if (accumulate) {
                const float2 old = before.pair(k);
                y[2 * k] += old.x;
                y[2 * k + 1] += old.y;
            }
        }
        Vec<T>::pack(y).store(target);
    }
}

template <typename T>
__device__ __forceinline__ void softmax_backward_any(T* __restrict__ dinp, const T* __restrict__ dout,
                                                     const T* __restrict__ out, uint32_t cols, float scale,
                                                     bool accumulate) {
    __shared__ float slots[WARP];
    const size_t start = size_t(blockIdx.x) * cols;
    float dot = 0.0f;
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        dot = fmaf(to_f32(dout[start + c]), to_f32(out[start + c]), dot);
    }
    dot = row_sum(dot, slots, 0, blockDim.x / WARP);
    for (uint32_t c = threadIdx.x; c < cols; c += blockDim.x) {
        const float grad = scale * to_f32(out[start + c]) * (to_f32(dout[start + c]) - dot);
        T* target = dinp + start + c;
        *target = from_f32<T>(accumulate ? to_f32(*target) + grad : grad);
    }
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_f32(float* out, const float* inp, uint64_t rows, uint32_t cols, float scale) {
    softmax_forward(out, inp, rows, cols, scale);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_forward_any_f32(float* out, const float* inp, uint32_t cols, float scale, const int32_t* keys, const float* added,
                            uint32_t repeat, uint32_t count) {
    softmax_forward_any(out, inp, cols, scale, Mask<float>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_masked_f32(float* out, const float* inp, uint64_t rows, uint32_t cols, float scale, const int32_t* keys,
                               const float* added, uint32_t repeat, uint32_t count) {
    softmax_forward_masked(out, inp, rows, cols, scale, Mask<float>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_backward_f32(float* dinp, const float* dout, const float* out, uint64_t rows, uint32_t cols, float scale,
                       uint32_t accumulate) {
    softmax_backward(dinp, dout, out, rows, cols, scale, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_backward_any_f32(float* dinp, const float* dout, const float* out, uint32_t cols, float scale,
                           uint32_t accumulate) {
    softmax_backward_any(dinp, dout, out, cols, scale, accumulate);
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_f16(f16* out, const f16* inp, uint64_t rows, uint32_t cols, float scale) {
    softmax_forward(out, inp, rows, cols, scale);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_forward_any_f16(f16* out, const f16* inp, uint32_t cols, float scale, const int32_t* keys, const f16* added,
                            uint32_t repeat, uint32_t count) {
    softmax_forward_any(out, inp, cols, scale, Mask<f16>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_masked_f16(f16* out, const f16* inp, uint64_t rows, uint32_t cols, float scale, const int32_t* keys,
                               const f16* added, uint32_t repeat, uint32_t count) {
    softmax_forward_masked(out, inp, rows, cols, scale, Mask<f16>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_backward_f16(f16* dinp, const f16* dout, const f16* out, uint64_t rows, uint32_t cols, float scale,
                       uint32_t accumulate) {
    softmax_backward(dinp, dout, out, rows, cols, scale, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_backward_any_f16(f16* dinp, const f16* dout, const f16* out, uint32_t cols, float scale,
                           uint32_t accumulate) {
    softmax_backward_any(dinp, dout, out, cols, scale, accumulate);
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_bf16(bf16* out, const bf16* inp, uint64_t rows, uint32_t cols, float scale) {
    softmax_forward(out, inp, rows, cols, scale);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_forward_any_bf16(bf16* out, const bf16* inp, uint32_t cols, float scale, const int32_t* keys, const bf16* added,
                            uint32_t repeat, uint32_t count) {
    softmax_forward_any(out, inp, cols, scale, Mask<bf16>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_forward_masked_bf16(bf16* out, const bf16* inp, uint64_t rows, uint32_t cols, float scale, const int32_t* keys,
                               const bf16* added, uint32_t repeat, uint32_t count) {
    softmax_forward_masked(out, inp, rows, cols, scale, Mask<bf16>{keys, added, repeat, count});
}

extern "C" __global__ void __launch_bounds__(1024)
    softmax_backward_bf16(bf16* dinp, const bf16* dout, const bf16* out, uint64_t rows, uint32_t cols, float scale,
                       uint32_t accumulate) {
    softmax_backward(dinp, dout, out, rows, cols, scale, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_backward_any_bf16(bf16* dinp, const bf16* dout, const bf16* out, uint32_t cols, float scale,
                           uint32_t accumulate) {
    softmax_backward_any(dinp, dout, out, cols, scale, accumulate);
}
