// cast.cu: conversion between float dtypes, and sums of tensors whose dtypes differ.

#include "common.cuh"

// N neighbouring values in one access: sixteen bytes of the larger dtype, or of both when they are of one size.
template <typename T, int N> __device__ __forceinline__ void load_run(float (&x)[N], const T* p) {
    if constexpr (N == Vec<T>::N) {
        Vec<T>::load(p).unpack(x);
    } else {
        const float4 four = Quad<T>::load(p);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    }
}

template <typename T, int N> __device__ __forceinline__ void store_run(T* p, const float (&x)[N]) {
    if constexpr (N == Vec<T>::N) {
        Vec<T>::pack(x).store(p);
    } else {
        Quad<T>::store(p, make_float4(x[0], x[1], x[2], x[3]));
    }
}

// cast: out[r, c] = inp[r, c], or out[r, c] += inp[r, c], through f32, rounded once
// shapes   inp (R, C) without gaps; out (R, C), rows `out_stride` elements apart (a window of a larger tensor)
// traffic  reads and writes R*C elements; with accumulate reads out too
// launch   one-dimensional, 256 threads; a run is 8 elements between two half-precision dtypes, else 4; `runs` = C / run when every run
//          of every row starts at a multiple of its size, else 0
// limits   any size; the part of a row past the runs goes one element at a time
// order    one thread an element: no sums across threads
// source   IEEE 754-2019, section 5.4.2
template <typename A, typename B>
__device__ __forceinline__ void cast(B* __restrict__ out, const A* __restrict__ inp, size_t rows, size_t cols,
                                     size_t out_stride, size_t runs, bool accumulate) {
    constexpr int N = sizeof(A) == 2 && sizeof(B) == 2 ? 8 : 4;
    const size_t first = thread_index(), step = thread_count();
    for (size_t i = first; i < rows * runs; i += step) {
        const size_t row = rows == 1 ? 0 : i / runs;
        const size_t col = N * (i - row * runs);
        B* target = out + row * out_stride + col;
        float x[N], sum[N];
        load_run<A, N>(x, inp + row * cols + col);
        if (accumulate) {
            load_run<B, N>(sum, target);
#pragma unroll
            for (int j = 0; j < N; ++j) x[j] += sum[j];
        }
        store_run<B, N>(target, x);
    }
    const size_t rest = cols - N * runs;
    for (size_t i = first; i < rows * rest; i += step) {
        const size_t row = rows == 1 ? 0 : i / rest;
        const size_t col = N * runs + (i - row * rest);
        B* target = out + row * out_stride + col;
        const float x = to_f32(inp[row * cols + col]);
        *target = from_f32<B>(accumulate ? to_f32(*target) + x : x);
    }
}

extern "C" __global__ void __launch_bounds__(256) cast_f32_f32(float* out, const float* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_f32_f16(f16* out, const float* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_f32_bf16(bf16* out, const float* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_f16_f32(float* out, const f16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_f16_f16(f16* out, const f16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_f16_bf16(bf16* out, const f16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_bf16_f32(float* out, const bf16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_bf16_f16(f16* out, const bf16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}

extern "C" __global__ void __launch_bounds__(256) cast_bf16_bf16(bf16* out, const bf16* inp, uint64_t rows, uint64_t cols,
                                                           uint64_t out_stride, uint64_t runs, uint32_t accumulate) {
    cast(out, inp, rows, cols, out_stride, runs, accumulate);
}
