// rmsnorm.cu: root-mean-square normalisation over the last dimension, and residual + rmsnorm, forward and backward.

#include "norm_rows.cuh"

// rmsnorm_forward: y[n,c] = x[n,c] * rstd[n] * weight[c];  rstd = 1/sqrt(mean over c of x^2 + eps)
//   With `branch`: h = x + branch rounded to the storage dtype, and y of h.
// shapes   x, branch, h, y (N, C) row-major; weight (C); rstd (N) f32, read by backward
// traffic  reads N*C (2 N*C with branch) + C, writes N*C (2 N*C) elements and N floats
// launch, limits, order as layernorm_forward
// source   Zhang and Sennrich 2019, arXiv:1910.07467, equation 4
//
// rmsnorm_backward: with x^ = x rstd, g = dout weight:  dinp (+)= rstd (g - x^ mean(g x^)); and each block's part of
//   dweight = sum over n of dout x^, into partial (blocks, C)
// shapes, traffic, launch, limits, order as layernorm_backward
//
// rmsnorm_forward_any, rmsnorm_backward_any, rmsnorm_backward_parameters_any: for any C and alignment
//
// rmsnorm_parameters: dweight (+)= the blocks' parts, in order

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_forward_f32(float* out, float* h, float* rstd, const float* inp, const float* branch, const float* weight,
                      uint64_t rows, uint32_t cols, float inverse_cols, float eps) {
    norm_forward<float, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_forward_any_f32(float* out, float* h, float* rstd, const float* inp, const float* branch, const float* weight,
                          uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<float, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_backward_f32(float* dinp, float* partial, const float* dout, const float* inp, const float* weight,
                       const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward<float, false>(dinp, partial, dout, inp, weight, nullptr, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_any_f32(float* dinp, const float* dout, const float* inp, const float* weight, const float* rstd,
                           uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<float, false>(dinp, dout, inp, weight, nullptr, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_parameters_any_f32(float* partial, const float* dout, const float* inp, const float* rstd,
                                      uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<float, false>(partial, dout, inp, nullptr, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_forward_f16(f16* out, f16* h, float* rstd, const f16* inp, const f16* branch, const f16* weight,
                      uint64_t rows, uint32_t cols, float inverse_cols, float eps) {
    norm_forward<f16, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_forward_any_f16(f16* out, f16* h, float* rstd, const f16* inp, const f16* branch, const f16* weight,
                          uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<f16, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_backward_f16(f16* dinp, float* partial, const f16* dout, const f16* inp, const f16* weight,
                       const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward<f16, false>(dinp, partial, dout, inp, weight, nullptr, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_any_f16(f16* dinp, const f16* dout, const f16* inp, const f16* weight, const float* rstd,
                           uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<f16, false>(dinp, dout, inp, weight, nullptr, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_parameters_any_f16(float* partial, const f16* dout, const f16* inp, const float* rstd,
                                      uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<f16, false>(partial, dout, inp, nullptr, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_forward_bf16(bf16* out, bf16* h, float* rstd, const bf16* inp, const bf16* branch, const bf16* weight,
                      uint64_t rows, uint32_t cols, float inverse_cols, float eps) {
    norm_forward<bf16, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_forward_any_bf16(bf16* out, bf16* h, float* rstd, const bf16* inp, const bf16* branch, const bf16* weight,
                          uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<bf16, false>(out, h, nullptr, rstd, inp, branch, weight, nullptr, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_backward_bf16(bf16* dinp, float* partial, const bf16* dout, const bf16* inp, const bf16* weight,
                       const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward<bf16, false>(dinp, partial, dout, inp, weight, nullptr, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_any_bf16(bf16* dinp, const bf16* dout, const bf16* inp, const bf16* weight, const float* rstd,
                           uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<bf16, false>(dinp, dout, inp, weight, nullptr, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    rmsnorm_backward_parameters_any_bf16(float* partial, const bf16* dout, const bf16* inp, const float* rstd,
                                      uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<bf16, false>(partial, dout, inp, nullptr, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    rmsnorm_parameters(float* dweight, const float* partial, uint32_t blocks, uint32_t cols, uint32_t accumulate) {
    norm_parameters(dweight, nullptr, partial, blocks, cols, accumulate, false);
}
