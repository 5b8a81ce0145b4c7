// matmul_split_sum_{f32,f16,bf16}: out[b] = epilogue(sum over s of partials[s, b]), the end of a product whose K was split.
// shapes   partials (splits, batches, M, N) f32; out (M, N) in the entry's type, bias (N), residual, pre (M, N) of the same type
// traffic  reads splits M N floats (and bias, residual, pre, out as the epilogue says), writes M N elements, per batch
// launch   grid (ceil(M ceil(N / LEN) / 256), 1, batches), block 256; a thread finishes LEN = 16 bytes / element neighbours
// limits   EPILOGUE_VECTOR only with N a multiple of 4, which aligns the partials' rows (launcher)
// order    splits in ascending order by one thread per element: bitwise repeatable
// source   definition

#include "matmul_epilogue.cuh"

template <typename O>
__device__ __forceinline__ void matmul_split_sum(
    O* out, const float* partials, const O* bias, const O* residual, O* pre, size_t out_row, size_t out_batch, int m, int n,
    int splits, unsigned flags) {
    const size_t shift = blockIdx.z * out_batch;
    const Store<O, O, FULL> store{
        out + shift, bias, residual ? residual + shift : nullptr, pre + (pre ? shift : 0), out_row, m, n, flags};
    constexpr int LEN = Store<O, O, FULL>::LEN;
    const int per_row = (n + LEN - 1) / LEN;
    const size_t item = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= (size_t)m * per_row) return;
    const int row = item / per_row, col = item % per_row * LEN;
    const size_t size = (size_t)m * n, between = gridDim.z * size;  // of a partial matrix; between splits
    const float* from = partials + blockIdx.z * size + (size_t)row * n + col;
    const auto one = [&](int i) {
        float sum = 0.0f;
#pragma unroll 1
        for (int s = 0; s < splits; s++) sum += from[s * between + i];
        return sum;
    };
    const auto four = [&](int i) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
        for (int s = 0; s < splits; s++) {
            const float4 part = *reinterpret_cast<const float4*>(from + s * between + i);
            sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
        }
        return sum;
    };
    store.run(row, col, one, four);
}

extern "C" __global__ void __launch_bounds__(256) matmul_split_sum_f32(
    float* out, const float* partials, const float* bias, const float* residual, float* pre, size_t out_row, size_t out_batch,
    int m, int n, int splits, unsigned flags) {
    matmul_split_sum<float>(out, partials, bias, residual, pre, out_row, out_batch, m, n, splits, flags);
}
extern "C" __global__ void __launch_bounds__(256) matmul_split_sum_f16(
    f16* out, const float* partials, const f16* bias, const f16* residual, f16* pre, size_t out_row, size_t out_batch,
    int m, int n, int splits, unsigned flags) {
    matmul_split_sum<f16>(out, partials, bias, residual, pre, out_row, out_batch, m, n, splits, flags);
}
extern "C" __global__ void __launch_bounds__(256) matmul_split_sum_bf16(
    bf16* out, const float* partials, const bf16* bias, const bf16* residual, bf16* pre, size_t out_row, size_t out_batch,
    int m, int n, int splits, unsigned flags) {
    matmul_split_sum<bf16>(out, partials, bias, residual, pre, out_row, out_batch, m, n, splits, flags);
}
