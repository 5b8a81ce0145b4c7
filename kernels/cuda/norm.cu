// norm.cu: the norm of all gradients together, for clipping and for finding overflow.

#include "common.cuh"
#include "optimizer.cuh"

// Elements whose squares are added in f32 before f64 takes over: four vectors.
constexpr int RUN = 16;

// Sum of squares of a run. Squares leave the range of f32 long before the norm does, so a sum that overflowed, or is so small that
// squares may have underflowed, is computed again in f64.
__device__ __forceinline__ double square_sum(const float (&x)[RUN]) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < RUN; ++j) sum = fmaf(x[j], x[j], sum);
    if (sum > 1e-30f && sum < __int_as_float(0x7f800000)) return double(sum);
    double exact = 0.0;
#pragma unroll
    for (int j = 0; j < RUN; ++j) exact = fma(double(x[j]), double(x[j]), exact);
    return exact;
}

// norm_partial: partial[b] = sum of squares of the gradients of chunk b; not finite when one of them is not
// shapes   table (chunks) of Chunk; partial (chunks) f64
// traffic  reads all gradients once
// launch   grid = chunks, 256 threads
// limits   any; unaligned chunks go one element at a time
// order    thread t adds runs t, t + 256, ... in f64; then a tree
// source   Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063, section 3.2 (what the norm is for)
extern "C" __global__ void __launch_bounds__(256) norm_partial(double* partial, const uint64_t* table) {
    __shared__ double slots[WARP];
    const Chunk& chunk = reinterpret_cast<const Chunk*>(table)[blockIdx.x];
    const float* grad = chunk.grad;
    const uint32_t count = chunk.count;
    double sum = 0.0;
    // A run is a vector of each quarter of a stretch of 4 * 256 vectors, so that neighbours read neighbouring vectors.
    constexpr uint32_t STRETCH = 256 * RUN;
    const uint32_t stretches = chunk.aligned ? count / STRETCH : 0;
    for (uint32_t s = 0; s < stretches; ++s) {
        float x[RUN];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const float* p = grad + s * STRETCH + (q * 256 + threadIdx.x) * 4;
            const float4 four = __ldg(reinterpret_cast<const float4*>(p));
            x[4 * q] = four.x;
            x[4 * q + 1] = four.y;
            x[4 * q + 2] = four.z;
            x[4 * q + 3] = four.w;
        }
        sum += square_sum(x);
    }
    for (uint32_t i = stretches * STRETCH + threadIdx.x; i < count; i += 256) {
        const double x = double(__ldg(grad + i));
        sum = fma(x, x, sum);
    }
    sum = row_sum(sum, slots, 0, blockDim.x / WARP);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm_finish: norm = sqrt(sum of partial)
// shapes   partial (chunks) f64; norm: one f64
// launch   one block of 1024 threads
// order    thread t adds t, t + 1024, ...; then a tree
extern "C" __global__ void __launch_bounds__(1024) norm_finish(double* norm, const double* partial, uint32_t chunks) {
    __shared__ double slots[WARP];
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < chunks; i += blockDim.x) sum += partial[i];
    sum = row_sum(sum, slots, 0, blockDim.x / WARP);
    if (threadIdx.x == 0) *norm = sqrt(sum);
}
