// adamw.cu: AdamW over all parameters in one launch.

#include "common.cuh"
#include "optimizer.cuh"

// The step's numbers, the same for a whole chunk.
struct Factors {
    float grad_scale, beta1, beta2, step_size, v_correction, eps, keep;
};

// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p (1 - lr wd) - lr m^/(sqrt(v^) + eps), m^ and v^ bias-corrected
// The roundings of the engine's CPU loop, one by one: the same bits.
__device__ __forceinline__ void update(float& p, float g, float& m, float& v, const Factors& f) {
    g = g * f.grad_scale;
    m = f.beta1 * m + (1.0f - f.beta1) * g;
    v = f.beta2 * v + (1.0f - f.beta2) * g * g;
    p = p * f.keep - f.step_size * m / (sqrtf(v) * f.v_correction + f.eps);
}

__device__ __forceinline__ void store_value(const Chunk& chunk, uint32_t i, float p) {
    if (chunk.dtype == 1) static_cast<f16*>(chunk.value)[i] = from_f32<f16>(p);
    if (chunk.dtype == 2) static_cast<bf16*>(chunk.value)[i] = from_f32<bf16>(p);
}

template <typename T> __device__ __forceinline__ void store_quad(void* value, uint32_t i, float4 p) {
    __stcg(reinterpret_cast<uint2*>(static_cast<T*>(value) + i), make_uint2(pack2<T>(p.x, p.y), pack2<T>(p.z, p.w)));
}

__device__ __forceinline__ void store_value(const Chunk& chunk, uint32_t i, float4 p) {
    if (chunk.dtype == 1) store_quad<f16>(chunk.value, i, p);
    if (chunk.dtype == 2) store_quad<bf16>(chunk.value, i, p);
}

// adamw_step: updates masters, moments and values of all parameters; nothing at all when the step was not applied (state)
// shapes   table (chunks) of Chunk; state: one OptimizerState as loss_scaler_update left it; settings: one OptimizerSettings
// traffic  reads g, p, m, v, writes p, m, v in f32 (28 bytes an element), and 2 bytes more for a half-precision value
// launch   grid = chunks, 256 threads, four elements a thread at a time; moments and gradients are streamed past the caches. Loads and
//          stores are named as global ones: the compiler cannot know that of pointers that come from a table
// limits   any; unaligned chunks go one element at a time
// order    no sums
// source   Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2
extern "C" __global__ void __launch_bounds__(256)
    adamw_step(const uint64_t* table, const uint32_t* state_words, const double* settings_words) {
    const OptimizerState& state = *reinterpret_cast<const OptimizerState*>(state_words);
    if (!state.applied) return;
    const OptimizerSettings& settings = *reinterpret_cast<const OptimizerSettings*>(settings_words);
    const Chunk chunk = reinterpret_cast<const Chunk*>(table)[blockIdx.x];
    const double decay = double(__uint_as_float(chunk.weight_decay));
    const Factors factors = {state.grad_scale,   float(settings.beta1), float(settings.beta2),
                             state.step_size,    state.v_correction,    float(settings.eps),
                             float(1.0 - state.lr * decay)};
    float* const original = chunk.dtype == 0 ? static_cast<float*>(chunk.value) : chunk.master;
    const uint32_t quads = chunk.aligned ? chunk.count / 4 : 0;
#pragma unroll 1
    for (uint32_t q = threadIdx.x; q < quads; q += 256) {
        const uint32_t i = 4 * q;
        const float4 g = __ldcs(reinterpret_cast<const float4*>(chunk.grad + i));
        float4 p = __ldcg(reinterpret_cast<const float4*>(original + i));
        float4 m = __ldcs(reinterpret_cast<const float4*>(chunk.m + i));
        float4 v = __ldcs(reinterpret_cast<const float4*>(chunk.v + i));
        update(p.x, g.x, m.x, v.x, factors);
        update(p.y, g.y, m.y, v.y, factors);
        update(p.z, g.z, m.z, v.z, factors);
        update(p.w, g.w, m.w, v.w, factors);
        __stcg(reinterpret_cast<float4*>(original + i), p);
        __stcs(reinterpret_cast<float4*>(chunk.m + i), m);
        __stcs(reinterpret_cast<float4*>(chunk.v + i), v);
        store_value(chunk, i, p);
    }
#pragma unroll 1
    for (uint32_t i = 4 * quads + threadIdx.x; i < chunk.count; i += 256) {
        float p = original[i], m = chunk.m[i], v = chunk.v[i];
        update(p, chunk.grad[i], m, v, factors);
        original[i] = p;
        chunk.m[i] = m;
        chunk.v[i] = v;
        store_value(chunk, i, p);
    }
}
