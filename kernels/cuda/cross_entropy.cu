// cross_entropy.cu: softmax cross-entropy over logits, forward, backward in place, and both at once.

#include "common.cuh"
#include "ids.cuh"

// A maximum and the sum of e^(x - maximum): the state of an online log-sum-exp (Milakov and Gimelshein 2018, arXiv:1805.02867).
struct MaxSum {
    float max, sum;
};

// The sums are rescaled to the larger maximum. -infinity against -infinity shifts by nothing: e^(-inf + inf) would be NaN.
__device__ __forceinline__ MaxSum merge(MaxSum a, MaxSum b) {
    const float max = fmaxf(a.max, b.max);
    const float shift = max == NEGATIVE_INFINITY ? 0.0f : max;
    // Without fmaf: both partners of a butterfly must get the same bits.
    return {max, a.sum * __expf(a.max - shift) + b.sum * __expf(b.max - shift)};
}

// Adds N logits.
template <int N> __device__ __forceinline__ void add(MaxSum& state, const float (&x)[N]) {
    float max = state.max;
#pragma unroll
    for (int j = 0; j < N; ++j) max = fmaxf(max, x[j]);
    const float shift = max == NEGATIVE_INFINITY ? 0.0f : max;
    float sum = state.sum * __expf(state.max - shift);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += __expf(x[j] - shift);
    state = {max, sum};
}

// Merges the threads' states over the block, in every thread: butterflies over warps, then over the warps' results.
__device__ __forceinline__ MaxSum block_merge(MaxSum state, MaxSum* slots) {
    const int warps = blockDim.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        state = merge(state, {__shfl_xor_sync(FULL_MASK, state.max, offset),
                              __shfl_xor_sync(FULL_MASK, state.sum, offset)});
    }
    if (warps == 1) return state;
    if (lane == 0) slots[threadIdx.x / WARP] = state;
    __syncthreads();
    state = lane < warps ? slots[lane] : MaxSum{NEGATIVE_INFINITY, 0.0f};
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        state = merge(state, {__shfl_xor_sync(FULL_MASK, state.max, offset),
                              __shfl_xor_sync(FULL_MASK, state.sum, offset)});
    }
    return state;
}

// A row cut into what precedes the first 16-byte boundary, whole vectors, and the rest.
template <typename T> struct Row {
    uint32_t head, vectors, loose;

    __device__ __forceinline__ Row(const T* row, uint32_t cols) {
        const uint32_t misaligned = uint32_t(reinterpret_cast<uintptr_t>(row)) & 15;
        head = min(cols, (16 - misaligned) % 16 / uint32_t(sizeof(T)));
        vectors = (cols - head) / Vec<T>::N;
        loose = cols - vectors * Vec<T>::N;
    }
    // Column of the i-th element outside the vectors.
    __device__ __forceinline__ uint32_t loose_at(uint32_t i) const {
        return i < head ? i : i + vectors * Vec<T>::N;
    }
};

// Log-sum-exp of a row as (maximum, sum), in every thread.
template <typename T> __device__ __forceinline__ MaxSum row_state(const T* row, uint32_t cols, MaxSum* slots) {
    constexpr int N = Vec<T>::N;
    const Row<T> cut(row, cols);
    MaxSum state = {NEGATIVE_INFINITY, 0.0f};
    for (uint32_t v = threadIdx.x; v < cut.vectors; v += blockDim.x) {
        float x[N];
        Vec<T>::load(row + cut.head + v * N).unpack(x);
        add(state, x);
    }
    for (uint32_t i = threadIdx.x; i < cut.loose; i += blockDim.x) {
        const float x[1] = {to_f32(row[cut.loose_at(i)])};
        add(state, x);
    }
    return block_merge(state, slots);
}

// What a target is: ignored, inside the vocabulary, or outside of it, which makes the loss NaN (and is reported, ids.cuh).
__device__ __forceinline__ bool counts(int32_t target, int32_t ignore_index) { return target != ignore_index; }

// cross_entropy_forward: lse[n] = log of sum over v of e^logits[n,v]; loss[n] = lse[n] - logits[n, target[n]], 0 when ignored;
//   hit[n] = 1 when the target's logit is the largest
// shapes   logits (N, V) row-major; targets (N) i32; lse, loss (N) f32; hit (N) i32
// traffic  reads N*V elements
// launch   grid N, a block of 32 to 1024 threads a row
// limits   any V and alignment; N < 2^31
// order    thread t takes vectors t, t + threads, ..., then loose elements; butterflies
// source   definition; online log-sum-exp
template <typename T>
__device__ __forceinline__ void cross_entropy_forward(float* __restrict__ lse, float* __restrict__ loss,
                                                      int32_t* __restrict__ hit, const T* __restrict__ logits,
                                                      const int32_t* __restrict__ targets, uint32_t vocab,
                                                      int32_t ignore_index) {
    __shared__ MaxSum slots[WARP];
    const size_t n = blockIdx.x;
    const T* row = logits + n * vocab;
    const MaxSum state = row_state(row, vocab, slots);
    if (threadIdx.x > 0) return;
    const float log_sum = logf(state.sum);
    const int32_t target = targets[n];
    lse[n] = state.max + log_sum;
    if (!counts(target, ignore_index)) {
        loss[n] = 0.0f;
        hit[n] = 0;
        return;
    }
    const float correct = uint32_t(target) < vocab ? to_f32(row[target]) : __int_as_float(0x7fffffff);
    loss[n] = (state.max - correct) + log_sum;
    hit[n] = correct == state.max;
}

// cross_entropy_backward: replaces logits by scale * (softmax - onehot), scale = *dout * *factor; ignored rows by 0
// shapes   logits (N, V), overwritten; lse (N) f32; targets (N) i32; dout, factor: one f32 each
// traffic  reads and writes N*V elements
// launch, limits as cross_entropy_forward
// order    no sums
template <typename T>
__device__ __forceinline__ void cross_entropy_backward(T* logits, const float* __restrict__ lse,
                                                       const int32_t* __restrict__ targets,
                                                       const float* __restrict__ dout,
                                                       const float* __restrict__ factor, uint32_t vocab,
                                                       int32_t ignore_index) {
    constexpr int N = Vec<T>::N;
    const size_t n = blockIdx.x;
    T* row = logits + n * vocab;
    const Row<T> cut(row, vocab);
    const int32_t target = targets[n];
    const bool counted = counts(target, ignore_index);
    const float shift = lse[n], scale = *dout * *factor;
    for (uint32_t v = threadIdx.x; v < cut.vectors; v += blockDim.x) {
        const uint32_t first = cut.head + v * N;
        float x[N];
        Vec<T>::load(row + first).unpack(x);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float onehot = int32_t(first) + j == target ? 1.0f : 0.0f;
            x[j] = counted ? (__expf(x[j] - shift) - onehot) * scale : 0.0f;
        }
        Vec<T>::pack(x).store(row + first);
    }
    for (uint32_t i = threadIdx.x; i < cut.loose; i += blockDim.x) {
        const uint32_t c = cut.loose_at(i);
        const float onehot = int32_t(c) == target ? 1.0f : 0.0f;
        row[c] = from_f32<T>(counted ? (__expf(to_f32(row[c]) - shift) - onehot) * scale : 0.0f);
    }
}

// cross_entropy_fused: loss and hit of each row as cross_entropy_forward, of logits + bias; and dlogits = scale * (softmax - onehot)
//   A row is read twice, the second time mostly from L2.
// shapes   logits (N, stride) f32, of which the first V columns count: what pads the vocabulary is neither in the sums nor gets a
//          gradient other than 0; bias (V) of dtype T or null; dlogits (N, stride) of dtype T, or null; loss (N) f32; hit (N) i32
// traffic  reads 2 N*V floats, writes N*V elements
// launch   grid N, a block of 32 to 1024 threads a row
// limits   stride a multiple of 8 elements, 16-byte aligned logits and dlogits; V <= stride
// order    as cross_entropy_forward
template <typename T>
__device__ __forceinline__ void cross_entropy_fused(T* __restrict__ dlogits, float* __restrict__ loss,
                                                    int32_t* __restrict__ hit, const float* __restrict__ logits,
                                                    const T* __restrict__ bias, const int32_t* __restrict__ targets,
                                                    uint32_t vocab, uint32_t stride, int32_t ignore_index,
                                                    float scale) {
    __shared__ MaxSum slots[WARP];
    const size_t n = blockIdx.x;
    const float* row = logits + n * stride;
    MaxSum state = {NEGATIVE_INFINITY, 0.0f};
    const bool bias_in_fours = reinterpret_cast<size_t>(bias) % (4 * sizeof(T)) == 0;
    // Four columns from c on; past the vocabulary -infinity, which adds nothing. What pads a row is never read.
    const auto four = [&](uint32_t c) {
        float x[4];
        if (c + 4 <= vocab) {
            const float4 all = *reinterpret_cast<const float4*>(row + c);
            x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] = c + j < vocab ? row[c + j] : NEGATIVE_INFINITY;
        }
        if (bias && bias_in_fours && c + 4 <= vocab) {
            const float4 all = Quad<T>::load(bias + c);
            x[0] += all.x, x[1] += all.y, x[2] += all.z, x[3] += all.w;
        } else if (bias) {
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] += c + j < vocab ? to_f32(bias[c + j]) : 0.0f;
        }
        return make_float4(x[0], x[1], x[2], x[3]);
    };
    for (uint32_t c = threadIdx.x * 4; c < vocab; c += blockDim.x * 4) {
        const float4 x = four(c);
        const float values[4] = {x.x, x.y, x.z, x.w};
        add(state, values);
    }
    state = block_merge(state, slots);
    const float log_sum = logf(state.sum), shift = state.max + log_sum;
    const int32_t target = targets[n];
    const bool counted = counts(target, ignore_index);
    if (threadIdx.x == 0) {
        float correct = __int_as_float(0x7fffffff);
        if (uint32_t(target) < vocab) correct = row[target] + (bias ? to_f32(bias[target]) : 0.0f);
        loss[n] = counted ? (state.max - correct) + log_sum : 0.0f;
        hit[n] = counted && correct == state.max;
    }
    if (!dlogits) return;
    T* out = dlogits + n * stride;
    for (uint32_t c = threadIdx.x * 4; c < stride; c += blockDim.x * 4) {
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (counted && c < vocab) {
            x = four(c);
            const int32_t at = target - int32_t(c);
            x.x = (__expf(x.x - shift) - (at == 0 ? 1.0f : 0.0f)) * scale;
            x.y = (__expf(x.y - shift) - (at == 1 ? 1.0f : 0.0f)) * scale;
            x.z = (__expf(x.z - shift) - (at == 2 ? 1.0f : 0.0f)) * scale;
            x.w = (__expf(x.w - shift) - (at == 3 ? 1.0f : 0.0f)) * scale;
        }
        Quad<T>::store(out + c, x);
    }
}

// cross_entropy_finish: out = factor * sum of loss, hits = sum of hit, with factor = 1/divisor, or 1/(counted targets) when divisor is
//   negative; divided by 0: factor 0. A target outside the vocabulary is reported (ids.cuh)
// shapes   out, factor: one f32 each; hits: one i32; loss (N) f32; hit, targets (N) i32; report one u64
// traffic  reads 3 N words
// launch   one block of 1024 threads
// limits   any N
// order    thread t adds t, t + 1024, ... in f64; then a tree
extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_finish(float* out, float* factor, int32_t* hits, const float* loss, const int32_t* hit,
                         const int32_t* targets, unsigned long long* report, uint32_t rows, uint32_t vocab,
                         int32_t ignore_index, float divisor) {
    __shared__ double loss_slots[WARP], hit_slots[WARP], count_slots[WARP];
    double total = 0.0, hit_total = 0.0, counted = 0.0;
    for (uint32_t n = threadIdx.x; n < rows; n += blockDim.x) {
        total += double(loss[n]);
        hit_total += double(hit[n]);
        const int32_t target = targets[n];
        const bool counts_here = counts(target, ignore_index);
        counted += counts_here ? 1.0 : 0.0;
        if (counts_here && uint32_t(target) >= vocab) report_id(report, n, target);
    }
    const int warps = blockDim.x / WARP;
    total = row_sum(total, loss_slots, 0, warps);
    hit_total = row_sum(hit_total, hit_slots, 0, warps);
    counted = row_sum(counted, count_slots, 0, warps);
    if (threadIdx.x > 0) return;
    const double by = divisor < 0.0f ? counted : double(divisor);
    const double each = by == 0.0 ? 0.0 : 1.0 / by;
    *out = float(total * each);
    *factor = float(each);
    *hits = int32_t(hit_total);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_forward_f32(float* lse, float* loss, int32_t* hit, const float* logits, const int32_t* targets,
                            uint32_t vocab, int32_t ignore_index) {
    cross_entropy_forward(lse, loss, hit, logits, targets, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_backward_f32(float* logits, const float* lse, const int32_t* targets, const float* dout,
                             const float* factor, uint32_t vocab, int32_t ignore_index) {
    cross_entropy_backward(logits, lse, targets, dout, factor, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_fused_f32(float* dlogits, float* loss, int32_t* hit, const float* logits, const float* bias,
                          const int32_t* targets, uint32_t vocab, uint32_t stride, int32_t ignore_index, float scale) {
    cross_entropy_fused(dlogits, loss, hit, logits, bias, targets, vocab, stride, ignore_index, scale);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_forward_f16(float* lse, float* loss, int32_t* hit, const f16* logits, const int32_t* targets,
                            uint32_t vocab, int32_t ignore_index) {
    cross_entropy_forward(lse, loss, hit, logits, targets, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_backward_f16(f16* logits, const float* lse, const int32_t* targets, const float* dout,
                             const float* factor, uint32_t vocab, int32_t ignore_index) {
    cross_entropy_backward(logits, lse, targets, dout, factor, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_fused_f16(f16* dlogits, float* loss, int32_t* hit, const float* logits, const f16* bias,
                          const int32_t* targets, uint32_t vocab, uint32_t stride, int32_t ignore_index, float scale) {
    cross_entropy_fused(dlogits, loss, hit, logits, bias, targets, vocab, stride, ignore_index, scale);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_forward_bf16(float* lse, float* loss, int32_t* hit, const bf16* logits, const int32_t* targets,
                            uint32_t vocab, int32_t ignore_index) {
    cross_entropy_forward(lse, loss, hit, logits, targets, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_backward_bf16(bf16* logits, const float* lse, const int32_t* targets, const float* dout,
                             const float* factor, uint32_t vocab, int32_t ignore_index) {
    cross_entropy_backward(logits, lse, targets, dout, factor, vocab, ignore_index);
}

extern "C" __global__ void __launch_bounds__(1024)
    cross_entropy_fused_bf16(bf16* dlogits, float* loss, int32_t* hit, const float* logits, const bf16* bias,
                          const int32_t* targets, uint32_t vocab, uint32_t stride, int32_t ignore_index, float scale) {
    cross_entropy_fused(dlogits, loss, hit, logits, bias, targets, vocab, stride, ignore_index, scale);
}
