// common.cuh: storage dtypes and f32, 16-byte vectors, and reductions in a fixed order.
//
// Kernels store f32, f16 or bf16 and compute in f32. Conversions round to nearest, ties to even, once per stored value.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr int WARP = 32;
constexpr unsigned FULL_MASK = 0xffffffffu;
constexpr float NEGATIVE_INFINITY = -__builtin_huge_valf();

// One value of storage type T as f32, and back.
__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(uint32_t(__bfloat16_as_ushort(x)) << 16); }

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

// Two values in a 32-bit word, the first in the lower half.
template <typename T> __device__ __forceinline__ float2 unpack2(uint32_t word);
template <> __device__ __forceinline__ float2 unpack2<f16>(uint32_t word) {
    const __half2 pair = *reinterpret_cast<const __half2*>(&word);
    return __half22float2(pair);
}
template <> __device__ __forceinline__ float2 unpack2<bf16>(uint32_t word) {
    return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <typename T> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<f16>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}
template <> __device__ __forceinline__ uint32_t pack2<bf16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// 16 bytes of T, as loaded: 4 f32 or 8 halves. Conversion happens where the values are used, so that a row waits in few registers.
template <typename T> struct Vec {
    static constexpr int N = 16 / sizeof(T);
    uint4 raw;

    __device__ __forceinline__ void unpack(float (&x)[N]) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(T) == 4) {
                x[i] = __uint_as_float(words[i]);
            } else {
                const float2 pair = unpack2<T>(words[i]);
                x[2 * i] = pair.x;
                x[2 * i + 1] = pair.y;
            }
        }
    }

    __device__ __forceinline__ static Vec pack(const float (&x)[N]) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(T) == 4) {
                words[i] = __float_as_uint(x[i]);
            } else {
                words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
            }
        }
        return Vec{make_uint4(words[0], words[1], words[2], words[3])};
    }

    // Elements 2k and 2k + 1.
    __device__ __forceinline__ float2 pair(int k) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        if constexpr (sizeof(T) == 4) {
            return make_float2(__uint_as_float(words[2 * k]), __uint_as_float(words[2 * k + 1]));
        } else {
            return unpack2<T>(words[k]);
        }
    }

    // Makes the compiler forget what it has unpacked: converting again costs less than keeping N floats in registers meanwhile.
    __device__ __forceinline__ void forget() { asm volatile("" : "+r"(raw.x), "+r"(raw.y), "+r"(raw.z), "+r"(raw.w)); }

    // From 16-byte aligned memory.
    __device__ __forceinline__ static Vec load(const T* p) { return Vec{*reinterpret_cast<const uint4*>(p)}; }
    // From memory that nothing writes while the kernel runs (LDG.CONSTANT).
    __device__ __forceinline__ static Vec load_constant(const T* p) {
        return Vec{__ldg(reinterpret_cast<const uint4*>(p))};
    }
    __device__ __forceinline__ void store(T* p) const { *reinterpret_cast<uint4*>(p) = raw; }
};

// Four values of T in one access, for kernels that read one dtype and write another: 16 bytes of f32, 8 of halves.
template <typename T> struct Quad;
template <> struct Quad<float> {
    __device__ __forceinline__ static float4 load(const float* p) { return *reinterpret_cast<const float4*>(p); }
    __device__ __forceinline__ static void store(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
};
template <typename T> struct Quad {
    static_assert(sizeof(T) == 2, "every storage dtype but f32 has two bytes");
    __device__ __forceinline__ static float4 load(const T* p) {
        const uint2 raw = *reinterpret_cast<const uint2*>(p);
        const float2 low = unpack2<T>(raw.x), high = unpack2<T>(raw.y);
        return make_float4(low.x, low.y, high.x, high.y);
    }
    __device__ __forceinline__ static void store(T* p, float4 x) {
        *reinterpret_cast<uint2*>(p) = make_uint2(pack2<T>(x.x, x.y), pack2<T>(x.z, x.w));
    }
};

// Sum over a warp, in every lane: a butterfly, so that all lanes add in the same order.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(FULL_MASK, x, offset);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, offset));
    return x;
}

// Sum over `warps` neighbouring warps that share a row, in every thread of them; `first` is the first of them. `slots` holds one
// value per warp of the block. Every thread of the block calls it: with more than one warp a row, it is a barrier.
template <typename F> __device__ __forceinline__ F row_sum(F x, F* slots, int first, int warps) {
    x = warp_sum(x);
    if (warps == 1) return x;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread % WARP == 0) slots[thread / WARP] = x;
    __syncthreads();
    const int lane = thread % WARP;
    return warp_sum(lane < warps ? slots[first + lane] : F(0));
}

// Global index and count of this thread in a one-dimensional grid.
__device__ __forceinline__ size_t thread_index() { return size_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ size_t thread_count() { return size_t(gridDim.x) * blockDim.x; }
