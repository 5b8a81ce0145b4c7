// elementwise.cu: arithmetic of two tensors with broadcasting, and scaling.

#include "common.cuh"

// What an op of two inputs computes; a parameter of the launch, the same for all threads.
enum Binary : uint32_t { ADD = 0, SUB = 1, MUL = 2 };

__device__ __forceinline__ float apply(uint32_t op, float a, float b) {
    return op == ADD ? a + b : op == SUB ? a - b : a * b;
}

template <typename T>
__device__ __forceinline__ Vec<T> apply(uint32_t op, const Vec<T>& a, const Vec<T>& b) {
    constexpr int N = Vec<T>::N;
    float x[N], y[N];
    a.unpack(x);
    b.unpack(y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = apply(op, x[i], y[i]);
    return Vec<T>::pack(x);
}

// elementwise_binary: out[i] = a[i] op b[i]
// shapes   out, a, b: `count` elements
// traffic  reads 2, writes 1 element per element of out
// launch   one-dimensional, 256 threads; `vectors` = count / Vec::N when all three are 16-byte aligned, else 0
// limits   any size; what lies past the vectors goes one element at a time
// order    no sums
template <typename T>
__device__ __forceinline__ void binary(T* __restrict__ out, const T* __restrict__ a, const T* __restrict__ b,
                                       size_t count, size_t vectors, uint32_t op) {
    constexpr int N = Vec<T>::N;
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        apply<T>(op, Vec<T>::load_constant(a + i * N), Vec<T>::load_constant(b + i * N)).store(out + i * N);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) {
        out[i] = from_f32<T>(apply(op, to_f32(a[i]), to_f32(b[i])));
    }
}

// Sizes of a result of up to six dimensions, and how far apart neighbours are in each input (0 where it is repeated). Unused leading
// dimensions have size 1.
struct Grid {
    uint32_t size[6], a_stride[6], b_stride[6];
};

// elementwise_broadcast: out[i0..i5] = a[sum of i * a_stride] op b[sum of i * b_stride]
// shapes   out row-major of the sizes given; a and b as their strides say
// traffic  writes out once; repeated inputs come from cache
// launch   one-dimensional, 256 threads, a thread takes `width` neighbours of the last dimension: Vec::N when that dimension is a
//          multiple of it, inputs and out are 16-byte aligned at each, and last strides are 0 or 1; else 1
// limits   sizes and strides below 2^32
// order    no sums
template <typename T>
__device__ __forceinline__ void broadcast(T* __restrict__ out, const T* __restrict__ a, const T* __restrict__ b,
                                          const Grid& grid, size_t groups, uint32_t width, uint32_t op) {
    constexpr int N = Vec<T>::N;
    for (size_t i = thread_index(); i < groups; i += thread_count()) {
        size_t rest = i * width, a_at = 0, b_at = 0;
#pragma unroll
        for (int d = 5; d > 0; --d) {
            if (grid.size[d] == 1) continue;
            const size_t outer = rest / grid.size[d];
            const size_t index = rest - outer * grid.size[d];
            a_at += index * grid.a_stride[d];
            b_at += index * grid.b_stride[d];
            rest = outer;
        }
        a_at += rest * grid.a_stride[0];
        b_at += rest * grid.b_stride[0];
        if (width == 1) {
            out[i] = from_f32<T>(apply(op, to_f32(a[a_at]), to_f32(b[b_at])));
            continue;
        }
        Vec<T> x, y;
        float same[N];
        if (grid.a_stride[5] == 0) {
#pragma unroll
            for (int j = 0; j < N; ++j) same[j] = to_f32(a[a_at]);
            x = Vec<T>::pack(same);
        } else {
            x = Vec<T>::load_constant(a + a_at);
        }
        if (grid.b_stride[5] == 0) {
#pragma unroll
            for (int j = 0; j < N; ++j) same[j] = to_f32(b[b_at]);
            y = Vec<T>::pack(same);
        } else {
            y = Vec<T>::load_constant(b + b_at);
        }
        apply<T>(op, x, y).store(out + i * N);
    }
}

// elementwise_scale: out[i] = inp[i] * factor * *device_factor, or out[i] += that
// shapes   out, inp: `count` elements; out may be inp. device_factor: one f32, or null for 1
// traffic  reads and writes `count` elements; with accumulate reads out too
// launch   one-dimensional, 256 threads; `vectors` as in elementwise_binary
// limits   any size
// order    no sums
template <typename T>
__device__ __forceinline__ void scale(T* out, const T* inp, const float* device_factor, size_t count, size_t vectors,
                                      float factor, bool accumulate) {
    constexpr int N = Vec<T>::N;
    if (device_factor) factor = factor * *device_factor;
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        float x[N], sum[N];
        Vec<T>::load(inp + i * N).unpack(x);
        if (accumulate) Vec<T>::load(out + i * N).unpack(sum);
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] = accumulate ? fmaf(x[j], factor, sum[j]) : x[j] * factor;
        Vec<T>::pack(x).store(out + i * N);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) {
        const float x = to_f32(inp[i]);
        out[i] = from_f32<T>(accumulate ? fmaf(x, factor, to_f32(out[i])) : x * factor);
    }
}

// elementwise_fill: out[i] = factor * *device_factor, the gradient of a sum
// shapes   out: `count` elements; device_factor: one f32
// traffic  writes `count` elements
// launch   one-dimensional, 256 threads; `vectors` as in elementwise_binary
// limits   any size
// order    no sums
template <typename T>
__device__ __forceinline__ void fill(T* __restrict__ out, const float* __restrict__ device_factor, size_t count,
                                     size_t vectors, float factor) {
    constexpr int N = Vec<T>::N;
    const float value = factor * *device_factor;
    float all[N];
#pragma unroll
    for (int j = 0; j < N; ++j) all[j] = value;
    const Vec<T> filled = Vec<T>::pack(all);
    for (size_t i = thread_index(); i < vectors; i += thread_count()) filled.store(out + i * N);
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) out[i] = from_f32<T>(value);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_binary_f32(float* out, const float* a, const float* b, uint64_t count, uint64_t vectors, uint32_t op) {
    binary(out, a, b, count, vectors, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_broadcast_f32(float* out, const float* a, const float* b, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3,
                            uint32_t s4, uint32_t s5, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4,
                            uint32_t a5, uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3, uint32_t b4, uint32_t b5,
                            uint64_t groups, uint32_t width, uint32_t op) {
    const Grid grid = {{s0, s1, s2, s3, s4, s5}, {a0, a1, a2, a3, a4, a5}, {b0, b1, b2, b3, b4, b5}};
    broadcast(out, a, b, grid, groups, width, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_scale_f32(float* out, const float* inp, const float* device_factor, uint64_t count, uint64_t vectors,
                        float factor, uint32_t accumulate) {
    scale(out, inp, device_factor, count, vectors, factor, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_fill_f32(float* out, const float* device_factor, uint64_t count, uint64_t vectors, float factor) {
    fill(out, device_factor, count, vectors, factor);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_binary_f16(f16* out, const f16* a, const f16* b, uint64_t count, uint64_t vectors, uint32_t op) {
    binary(out, a, b, count, vectors, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_broadcast_f16(f16* out, const f16* a, const f16* b, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3,
                            uint32_t s4, uint32_t s5, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4,
                            uint32_t a5, uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3, uint32_t b4, uint32_t b5,
                            uint64_t groups, uint32_t width, uint32_t op) {
    const Grid grid = {{s0, s1, s2, s3, s4, s5}, {a0, a1, a2, a3, a4, a5}, {b0, b1, b2, b3, b4, b5}};
    broadcast(out, a, b, grid, groups, width, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_scale_f16(f16* out, const f16* inp, const float* device_factor, uint64_t count, uint64_t vectors,
                        float factor, uint32_t accumulate) {
    scale(out, inp, device_factor, count, vectors, factor, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_fill_f16(f16* out, const float* device_factor, uint64_t count, uint64_t vectors, float factor) {
    fill(out, device_factor, count, vectors, factor);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_binary_bf16(bf16* out, const bf16* a, const bf16* b, uint64_t count, uint64_t vectors, uint32_t op) {
    binary(out, a, b, count, vectors, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_broadcast_bf16(bf16* out, const bf16* a, const bf16* b, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3,
                            uint32_t s4, uint32_t s5, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t a4,
                            uint32_t a5, uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3, uint32_t b4, uint32_t b5,
                            uint64_t groups, uint32_t width, uint32_t op) {
    const Grid grid = {{s0, s1, s2, s3, s4, s5}, {a0, a1, a2, a3, a4, a5}, {b0, b1, b2, b3, b4, b5}};
    broadcast(out, a, b, grid, groups, width, op);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_scale_bf16(bf16* out, const bf16* inp, const float* device_factor, uint64_t count, uint64_t vectors,
                        float factor, uint32_t accumulate) {
    scale(out, inp, device_factor, count, vectors, factor, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    elementwise_fill_bf16(bf16* out, const float* device_factor, uint64_t count, uint64_t vectors, float factor) {
    fill(out, device_factor, count, vectors, factor);
}
