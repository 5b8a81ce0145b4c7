// dropout.cu: dropout whose mask is drawn again in backward, never stored.

#include "common.cuh"
#include "philox.cuh"

// dropout_apply: out[i] = inp[i] * (0 or keep), or out[i] += that; the backward is the same call on the gradient
//   Element i uses word i % 4 of draw i / 4 of the stream (seed, stream, step), step = *device_step + first_step: a step kept in device
//   memory lets a captured graph draw new masks each time it runs.
// shapes   out, inp: `count` elements; device_step: one u32 or null for 0
// traffic  reads and writes `count` elements; with accumulate reads out too
// launch   one-dimensional, 256 threads; `vectors` = count / Vec::N when both are 16-byte aligned, else 0
// limits   any size; what lies past the vectors goes one element at a time
// order    no sums
// source   Srivastava et al. 2014; Philox: Salmon et al. 2011
template <typename T>
__device__ __forceinline__ void dropout_apply(T* __restrict__ out, const T* __restrict__ inp,
                                              const uint32_t* __restrict__ device_step, size_t count, size_t vectors,
                                              uint64_t seed, uint32_t stream, uint32_t first_step, uint32_t threshold,
                                              float keep, bool accumulate) {
    constexpr int N = Vec<T>::N;
    const uint32_t step = first_step + (device_step ? *device_step : 0);
    for (size_t i = thread_index(); i < vectors; i += thread_count()) {
        float x[N], before[N];
        Vec<T>::load_constant(inp + i * N).unpack(x);
        if (accumulate) Vec<T>::load(out + i * N).unpack(before);
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            const uint4 words = philox_words(seed, stream, step, (i * N + j) / 4);
            x[j] *= dropout_factor(words.x, threshold, keep);
            x[j + 1] *= dropout_factor(words.y, threshold, keep);
            x[j + 2] *= dropout_factor(words.z, threshold, keep);
            x[j + 3] *= dropout_factor(words.w, threshold, keep);
        }
        if (accumulate) {
#pragma unroll
            for (int j = 0; j < N; ++j) x[j] += before[j];
        }
        Vec<T>::pack(x).store(out + i * N);
    }
    for (size_t i = vectors * N + thread_index(); i < count; i += thread_count()) {
        const uint4 words = philox_words(seed, stream, step, i / 4);
        const uint32_t word = i % 4 == 0 ? words.x : i % 4 == 1 ? words.y : i % 4 == 2 ? words.z : words.w;
        const float x = to_f32(inp[i]) * dropout_factor(word, threshold, keep);
        out[i] = from_f32<T>(accumulate ? to_f32(out[i]) + x : x);
    }
}

// philox_fill: out[4 i .. 4 i + 4] = the words of draw i, for comparing the generator with the engine's
// shapes   out (4 draws) u32
// launch   one-dimensional, 256 threads
// limits   any size
extern "C" __global__ void __launch_bounds__(256)
    philox_fill(uint32_t* out, uint64_t first, uint64_t draws, uint64_t seed, uint32_t stream, uint32_t step) {
    for (size_t i = thread_index(); i < draws; i += thread_count()) {
        reinterpret_cast<uint4*>(out)[i] = philox_words(seed, stream, step, first + i);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_apply_f32(float* out, const float* inp, const uint32_t* device_step, uint64_t count, uint64_t vectors,
                    uint64_t seed, uint32_t stream, uint32_t first_step, uint32_t threshold, float keep,
                    uint32_t accumulate) {
    dropout_apply(out, inp, device_step, count, vectors, seed, stream, first_step, threshold, keep, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_apply_f16(f16* out, const f16* inp, const uint32_t* device_step, uint64_t count, uint64_t vectors,
                    uint64_t seed, uint32_t stream, uint32_t first_step, uint32_t threshold, float keep,
                    uint32_t accumulate) {
    dropout_apply(out, inp, device_step, count, vectors, seed, stream, first_step, threshold, keep, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    dropout_apply_bf16(bf16* out, const bf16* inp, const uint32_t* device_step, uint64_t count, uint64_t vectors,
                    uint64_t seed, uint32_t stream, uint32_t first_step, uint32_t threshold, float keep,
                    uint32_t accumulate) {
    dropout_apply(out, inp, device_step, count, vectors, seed, stream, first_step, threshold, keep, accumulate);
}
