// What every attention kernel shares: the parameters, which keys a query sees, the scale of the exponent, dropout.
//
// Not here: tiles and products (attention_half.cuh for tensor cores, attention_f32.cuh for FP32 arithmetic).
// Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4.

#pragma once

#include <cstdint>

#include "common.cuh"
#include "philox.cuh"

// One call of attention. Element (b, t, h, d) of q lies at q[b * q_batch + t * q_row + h * head_size + d]; k and v alike.
template <typename T>
struct Problem {
    const T* q;
    size_t q_batch, q_row;
    const T* k;
    size_t k_batch, k_row;
    const T* v;
    size_t v_batch, v_row;
    const int32_t* key_mask;      // (batch, keys): 0 hides a key from every query; null shows all
    const float* bias;            // (heads, queries, keys), added to the scaled scores; null adds nothing
    const uint32_t* device_step;  // with `step` the generator's step: in device memory a captured graph draws anew; null: 0
    uint64_t seed;
    uint32_t stream, step, threshold;
    float keep_scale;  // 1 / (1 - drop_prob); 1 is no dropout
    int heads, queries, keys, head_size;
    float scale;
    int causal;  // query i sees keys 0 ..= keys - queries + i
    int vector;  // every row of every matrix starts at a multiple of 16 bytes
};

// The parameters of every entry after its own ones, and the same names again to fill a Problem.
#define ATTENTION_PARAMETERS(T)                                                                                       \
    const T *q, size_t q_batch, size_t q_row, const T *k, size_t k_batch, size_t k_row, const T *v, size_t v_batch,   \
        size_t v_row, const int32_t *key_mask, const float *bias, const uint32_t *device_step, uint64_t seed,         \
        uint32_t stream, uint32_t step, uint32_t threshold, float keep_scale, int heads, int queries, int keys,       \
        int head_size, float scale, int causal, int vector
#define ATTENTION_ARGUMENTS                                                                                           \
    q, q_batch, q_row, k, k_batch, k_row, v, v_batch, v_row, key_mask, bias, device_step, seed, stream, step,         \
        threshold, keep_scale, heads, queries, keys, head_size, scale, causal, vector

constexpr float LOG2E = 1.4426950408889634f;

// The score and its exponent. Without bias, scores stay as the product q k^T gives them, and e^(scale s) is taken as
// 2^(factor s), one multiplication that the exponent's fma does anyway. With a bias, or a scale that is not positive
// (the row's largest product is then not its largest score), scores are scaled first.
struct Exponent {
    bool scaled_first;
    float factor;   // of a kept score, in powers of two

    template <typename T>
    __device__ __forceinline__ explicit Exponent(const Problem<T>& p)
        : scaled_first(p.bias != nullptr || !(p.scale > 0.0f)),
          factor(scaled_first ? LOG2E : p.scale * LOG2E) {}
};

// Dropout of one call.
struct Dropout {
    bool on;
    uint32_t step;

    template <typename T>
    __device__ __forceinline__ explicit Dropout(const Problem<T>& p)
        : on(p.keep_scale != 1.0f), step(p.step + (p.device_step == nullptr ? 0 : *p.device_step)) {}
};

// 2^x with relative error 2^-22; results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Whether this key may be seen at all: in range and not hidden by the mask.
template <typename T>
__device__ __forceinline__ bool key_visible(const Problem<T>& p, int batch, int key) {
    return key < p.keys && (p.key_mask == nullptr || p.key_mask[static_cast<size_t>(batch) * p.keys + key] != 0);
}

// Bit c: key first + c, of 32 or 64, may be seen. The same in every lane.
template <int KEYS, typename T>
__device__ __forceinline__ uint64_t visible_keys(const Problem<T>& p, int batch, int first) {
    static_assert(KEYS == 32 || KEYS == 64, "a bit a key");
    const int lane = threadIdx.x % WARP;
    const uint64_t low = __ballot_sync(FULL_MASK, key_visible(p, batch, first + lane));
    if (KEYS == 32) return low;
    const uint64_t high = __ballot_sync(FULL_MASK, key_visible(p, batch, first + 32 + lane));
    return low | high << 32;
}

// Keep bits of the weights of `query` on keys 4 * quad .. 4 * quad + 3, bit i for key 4 * quad + i. Rows of draws start at
// whole words, as in the CPU's kernel. `head` counts over batch and heads.
template <typename T>
__device__ __forceinline__ uint32_t keep_bits(const Problem<T>& p, uint32_t step, int head, int query, int quad) {
    const uint64_t row = static_cast<uint64_t>(head) * p.queries + query;
    const uint64_t word = row * ((static_cast<uint32_t>(p.keys) + 3) / 4) + quad;
    const uint4 draws = philox_words(p.seed, p.stream, step, word);
    return static_cast<uint32_t>(draws.x >> 8 >= p.threshold) | static_cast<uint32_t>(draws.y >> 8 >= p.threshold) << 1 |
           static_cast<uint32_t>(draws.z >> 8 >= p.threshold) << 2 | static_cast<uint32_t>(draws.w >> 8 >= p.threshold) << 3;
}

// Queries of one head in `stats`: an even number, so that 16 bytes hold two.
__device__ __forceinline__ size_t stats_row(int queries) { return (static_cast<size_t>(queries) + 1) / 2 * 2; }

// e^(score) / sum = 2^(factor * score - lse), with lse the base-2 logarithm of the sum: a natural one would be rounded once more when
// it is written and once more here, and the error is that of a whole row of weights. A query that sees no key has lse -infinity and
// only scores of -infinity: any finite number in its place gives weights of 0.
__device__ __forceinline__ float finite_exponent(float lse) { return lse == NEGATIVE_INFINITY ? 0.0f : lse; }
