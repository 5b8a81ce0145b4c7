// cached_attention.cu: attention of one new token a sequence over cached keys and values, for generation.
//
// Not here: many queries at a time (attention.cu), the prompt's among them. The position is read from device memory, so that one
// captured graph serves every token.

#include "attention.cuh"

constexpr int CACHED_THREADS = 256;
constexpr int CACHED_WARPS = CACHED_THREADS / WARP;
constexpr int CACHED_HEAD_SIZE = 128;

// A softmax under way over some of the keys: the largest score in powers of two, the weights' sum, the weighted values' sum.
template <int N> struct Partial {
    float max, sum, out[N];

    // Adds another one, whose numbers the callbacks give.
    template <typename Out>
    __device__ __forceinline__ void merge(float other_max, float other_sum, Out other_out) {
        const float larger = fmaxf(max, other_max);
        const float shift = larger == NEGATIVE_INFINITY ? 0.0f : larger;
        const float mine = exp2_approximate(max - shift), others = exp2_approximate(other_max - shift);
        max = larger;
        sum = sum * mine + other_sum * others;
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = out[i] * mine + other_out(i) * others;
    }
};

// Elements first .. first + N - 1 of a head, as f32; those past its end are 0.
template <typename T, int N>
__device__ __forceinline__ void load_part(float (&x)[N], const T* head, int first, int head_size, bool vector) {
    if (vector && first < head_size) {
        Vec<T>::load(head + first).unpack(x);
        return;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = first + i < head_size ? to_f32(head[first + i]) : 0.0f;
}

// cached_attention_forward: with p = *position, stores k and v of the new token in row p of the caches, and
//   out[b,h] = softmax over j <= p of (scale q[b,h] . keys[b,j,h]) . values[b,j,h]
//   A position outside the cache gives NaN and stores nothing.
// shapes   out (B, 1, C); keys, values (B, context, C); qkv (B, 1, 3C): q, k, v side by side; C = heads * head_size; position one i32
// traffic  reads 2 (p + 1) C + 3C, writes 3C elements a sequence
// launch   grid B * heads, 256 threads; `lanes` neighbouring lanes, a power of two, share a key, 16 bytes of it each
// limits   head_size <= 128 and <= lanes * 16 bytes; `vector` only with every head at a multiple of 16 bytes
// order    a group of lanes takes every (256 / lanes)-th key; groups merge by butterflies over the warp, warps in their order
// source   Vaswani et al. 2017, equation 1; online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867
template <typename T>
__device__ __forceinline__ void cached_attention_forward(T* __restrict__ out, T* keys, T* values,
                                                         const T* __restrict__ qkv,
                                                         const int32_t* __restrict__ position, int context, int heads,
                                                         int head_size, int lanes, float scale, int vector) {
    constexpr int N = Vec<T>::N;
    static_assert(WARP * N >= CACHED_HEAD_SIZE, "a warp's lanes must hold a whole head");
    static_assert(CACHED_THREADS >= CACHED_HEAD_SIZE, "each element of a head has a thread that stores it");
    __shared__ float warp_max[CACHED_WARPS], warp_sum[CACHED_WARPS], warp_out[CACHED_WARPS][CACHED_HEAD_SIZE];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int group = threadIdx.x / lanes, groups = CACHED_THREADS / lanes, first = threadIdx.x % lanes * N;
    const size_t width = size_t(heads) * head_size;
    const size_t sequence = blockIdx.x / heads, column = size_t(blockIdx.x % heads) * head_size;
    const T* q = qkv + sequence * 3 * width + column;
    const T *new_k = q + width, *new_v = q + 2 * width;
    T* out_head = out + sequence * width + column;
    const int d = threadIdx.x;  // of a head: whoever is below head_size stores an element
    const int p = *position;
    if (p < 0 || p >= context) {
        if (d < head_size) out_head[d] = from_f32<T>(__int_as_float(0x7fffffff));
        return;
    }
    T* key_rows = keys + sequence * context * width + column;
    T* value_rows = values + sequence * context * width + column;
    // The new row is read from qkv, never from the cache: no barrier between.
    if (d < head_size) {
        key_rows[p * width + d] = new_k[d];
        value_rows[p * width + d] = new_v[d];
    }

    float query[N];
    load_part<T>(query, q, first, head_size, vector);
    const float factor = scale * LOG2E;
    Partial<N> state = {NEGATIVE_INFINITY, 0.0f, {}};
    for (int start = 0; start <= p; start += groups) {
        const int j = start + group;
        const bool valid = j <= p;
        float x[N], dot = 0.0f;
        if (valid) {
            load_part<T>(x, j == p ? new_k : key_rows + j * width, first, head_size, vector);
#pragma unroll
            for (int i = 0; i < N; ++i) dot = fmaf(query[i], x[i], dot);
        }
        for (int offset = lanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(FULL_MASK, dot, offset);
        if (!valid) continue;
        load_part<T>(x, j == p ? new_v : value_rows + j * width, first, head_size, vector);
        state.merge(dot * factor, 1.0f, [&](int i) { return x[i]; });
    }

    for (int offset = lanes; offset < WARP; offset *= 2) {
        const float other_max = __shfl_xor_sync(FULL_MASK, state.max, offset);
        const float other_sum = __shfl_xor_sync(FULL_MASK, state.sum, offset);
        float other[N];
#pragma unroll
        for (int i = 0; i < N; ++i) other[i] = __shfl_xor_sync(FULL_MASK, state.out[i], offset);
        state.merge(other_max, other_sum, [&](int i) { return other[i]; });
    }
    if (lane < lanes) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (first + i < head_size) warp_out[warp][first + i] = state.out[i];
        }
    }
    if (lane == 0) {
        warp_max[warp] = state.max;
        warp_sum[warp] = state.sum;
    }
    __syncthreads();
    if (d < head_size) {
        Partial<1> all = {warp_max[0], warp_sum[0], {warp_out[0][d]}};
        for (int w = 1; w < CACHED_WARPS; ++w) all.merge(warp_max[w], warp_sum[w], [&](int) { return warp_out[w][d]; });
        out_head[d] = from_f32<T>(all.out[0] / all.sum);
    }
}

extern "C" __global__ void __launch_bounds__(CACHED_THREADS)
    cached_attention_forward_f32(float* out, float* keys, float* values, const float* qkv, const int32_t* position,
                                 int context, int heads, int head_size, int lanes, float scale, int vector) {
    cached_attention_forward<float>(out, keys, values, qkv, position, context, heads, head_size, lanes, scale, vector);
}
extern "C" __global__ void __launch_bounds__(CACHED_THREADS)
    cached_attention_forward_f16(f16* out, f16* keys, f16* values, const f16* qkv, const int32_t* position, int context,
                                 int heads, int head_size, int lanes, float scale, int vector) {
    cached_attention_forward<f16>(out, keys, values, qkv, position, context, heads, head_size, lanes, scale, vector);
}
extern "C" __global__ void __launch_bounds__(CACHED_THREADS)
    cached_attention_forward_bf16(bf16* out, bf16* keys, bf16* values, const bf16* qkv, const int32_t* position,
                                  int context, int heads, int head_size, int lanes, float scale, int vector) {
    cached_attention_forward<bf16>(out, keys, values, qkv, position, context, heads, head_size, lanes, scale, vector);
}
