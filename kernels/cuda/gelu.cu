// gelu.cu: gelu(x) = x Phi(x), exactly or through its tanh fit, forward and backward.

#include "common.cuh"
#include "gelu.cuh"

// Which form of the function; a parameter of the launch.
enum Form : uint32_t { TANH = 0, ERF = 1 };

__device__ __forceinline__ GeluPoint gelu(float x, uint32_t form) { return form == TANH ? gelu_tanh(x) : gelu_erf(x); }

// gelu_forward: out[i] = gelu(inp[i])
// shapes   out, inp: `count` elements
// traffic  reads and writes `count` elements
// launch   one-dimensional, 256 threads; `vectors` = count / Vec::N when both are 16-byte aligned, else 0
// limits   any size; what lies past the vectors goes one element at a time
// order    no sums
// source   Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2
template <typename T>
__device__ __forceinline__ void gelu_forward(T* __restrict__ out, const T* __restrict__ inp, size_t count,
                                             size_t vectors, uint32_t form) {
    constexpr int N = Vec<T>::N;
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        float x[N];
        Vec<T>::load_constant(inp + i * N).unpack(x);
#pragma unroll
        for (int j = 0; j < N; ++j) x[j] = gelu(x[j], form).value;
        Vec<T>::pack(x).store(out + i * N);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) {
        out[i] = from_f32<T>(gelu(to_f32(inp[i]), form).value);
    }
}

// gelu_backward: dinp[i] = gelu'(inp[i]) dout[i], or dinp[i] += that
// shapes   dinp, dout, inp: `count` elements; inp as forward read it
// traffic  reads 2 (3 with accumulate), writes 1 element per element
// launch, limits, order, source as gelu_forward
template <typename T>
__device__ __forceinline__ void gelu_backward(T* __restrict__ dinp, const T* __restrict__ dout,
                                              const T* __restrict__ inp, size_t count, size_t vectors, uint32_t form,
                                              bool accumulate) {
    constexpr int N = Vec<T>::N;
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        float x[N], d[N], before[N];
        Vec<T>::load_constant(inp + i * N).unpack(x);
        Vec<T>::load_constant(dout + i * N).unpack(d);
        if (accumulate) Vec<T>::load(dinp + i * N).unpack(before);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float slope = gelu(x[j], form).slope;
            x[j] = accumulate ? fmaf(slope, d[j], before[j]) : slope * d[j];
        }
        Vec<T>::pack(x).store(dinp + i * N);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) {
        const float slope = gelu(to_f32(inp[i]), form).slope, d = to_f32(dout[i]);
        dinp[i] = from_f32<T>(accumulate ? fmaf(slope, d, to_f32(dinp[i])) : slope * d);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_forward_f32(float* out, const float* inp, uint64_t count, uint64_t vectors, uint32_t form) {
    gelu_forward(out, inp, count, vectors, form);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_backward_f32(float* dinp, const float* dout, const float* inp, uint64_t count, uint64_t vectors, uint32_t form,
                    uint32_t accumulate) {
    gelu_backward(dinp, dout, inp, count, vectors, form, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_forward_f16(f16* out, const f16* inp, uint64_t count, uint64_t vectors, uint32_t form) {
    gelu_forward(out, inp, count, vectors, form);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_backward_f16(f16* dinp, const f16* dout, const f16* inp, uint64_t count, uint64_t vectors, uint32_t form,
                    uint32_t accumulate) {
    gelu_backward(dinp, dout, inp, count, vectors, form, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_forward_bf16(bf16* out, const bf16* inp, uint64_t count, uint64_t vectors, uint32_t form) {
    gelu_forward(out, inp, count, vectors, form);
}

extern "C" __global__ void __launch_bounds__(256)
    gelu_backward_bf16(bf16* dinp, const bf16* dout, const bf16* inp, uint64_t count, uint64_t vectors, uint32_t form,
                    uint32_t accumulate) {
    gelu_backward(dinp, dout, inp, count, vectors, form, accumulate);
}
