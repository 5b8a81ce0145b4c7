// layernorm.cu: layer normalisation over the last dimension, and residual + layernorm, forward and backward.

#include "norm_rows.cuh"

// layernorm_forward: y[n,c] = (x[n,c] - mean[n]) * rstd[n] * weight[c] + bias[c];  rstd = 1/sqrt(var + eps)
//   With `branch`: h = x + branch rounded to the storage dtype, and y of h: the residual stream's addition in the same pass.
//   var is two-pass, from registers: E[x^2]-E[x]^2 cancels when |mean| >> std (docs/src/numerics.md, Variance)
// shapes   x, branch, h, y (N, C) row-major; weight, bias (C); mean, rstd (N) f32, read by backward
// traffic  reads N*C (2 N*C with branch) + 2C, writes N*C (2 N*C) elements and 2N floats
// launch   block (32 W, R): W warps a row, R rows a block, grid ceil(N/R); 256 B of shared memory
// limits   C a multiple of 16 bytes, C <= 4 * 32 W vectors of 16 bytes, 16-byte aligned arrays; any N (guarded)
// order    a thread's elements in order, a butterfly over the warp, another over the warps
// source   Ba, Kiros, Hinton 2016, equation 4
//
// layernorm_forward_any: the same for any C and alignment; a block of 256 threads a row
//
// layernorm_backward: with x^ = (x - mean) rstd, g = dout weight:  dinp (+)= rstd (g - mean(g) - x^ mean(g x^)); and each block's part
//   of dweight = sum over n of dout x^, dbias = sum over n of dout
// shapes   dinp, dout, inp (N, C); weight (C); mean, rstd (N) f32; partial (2, blocks, C) f32 or null
//          dinp is overwritten, or with `accumulate` added to: the gradient that h has from further up joins in the same pass
// traffic  reads 2 N*C (3 with accumulate), writes N*C elements; partial 2 blocks C floats
// launch   block (32 W, R), 8 elements a thread: 32 W >= C/8; grid = blocks, a function of N and C alone; 16 KiB + 512 B shared
// limits   C a multiple of 16 bytes, C <= 8192, 16-byte aligned arrays; R > 1 only with at most 256 threads; any N (guarded)
// order    a column's sum: rows b*R + r, then + blocks*R, ... of row lane r; lanes in order; layernorm_parameters adds the blocks
//
// layernorm_backward_any and layernorm_backward_parameters_any: the two halves for any C and alignment
//
// layernorm_parameters: dweight, dbias (+)= the blocks' parts, in order; f32 in every precision

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_forward_f32(float* out, float* h, float* mean, float* rstd, const float* inp, const float* branch,
                        const float* weight, const float* bias, uint64_t rows, uint32_t cols, float inverse_cols,
                        float eps) {
    norm_forward<float, true>(out, h, mean, rstd, inp, branch, weight, bias, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_forward_any_f32(float* out, float* h, float* mean, float* rstd, const float* inp, const float* branch,
                            const float* weight, const float* bias, uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<float, true>(out, h, mean, rstd, inp, branch, weight, bias, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_backward_f32(float* dinp, float* partial, const float* dout, const float* inp, const float* weight,
                         const float* mean, const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols,
                         uint32_t accumulate) {
    norm_backward<float, true>(dinp, partial, dout, inp, weight, mean, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_any_f32(float* dinp, const float* dout, const float* inp, const float* weight, const float* mean,
                             const float* rstd, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<float, true>(dinp, dout, inp, weight, mean, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_parameters_any_f32(float* partial, const float* dout, const float* inp, const float* mean,
                                        const float* rstd, uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<float, true>(partial, dout, inp, mean, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_forward_f16(f16* out, f16* h, float* mean, float* rstd, const f16* inp, const f16* branch,
                        const f16* weight, const f16* bias, uint64_t rows, uint32_t cols, float inverse_cols,
                        float eps) {
    norm_forward<f16, true>(out, h, mean, rstd, inp, branch, weight, bias, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_forward_any_f16(f16* out, f16* h, float* mean, float* rstd, const f16* inp, const f16* branch,
                            const f16* weight, const f16* bias, uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<f16, true>(out, h, mean, rstd, inp, branch, weight, bias, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_backward_f16(f16* dinp, float* partial, const f16* dout, const f16* inp, const f16* weight,
                         const float* mean, const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols,
                         uint32_t accumulate) {
    norm_backward<f16, true>(dinp, partial, dout, inp, weight, mean, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_any_f16(f16* dinp, const f16* dout, const f16* inp, const f16* weight, const float* mean,
                             const float* rstd, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<f16, true>(dinp, dout, inp, weight, mean, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_parameters_any_f16(float* partial, const f16* dout, const f16* inp, const float* mean,
                                        const float* rstd, uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<f16, true>(partial, dout, inp, mean, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_forward_bf16(bf16* out, bf16* h, float* mean, float* rstd, const bf16* inp, const bf16* branch,
                        const bf16* weight, const bf16* bias, uint64_t rows, uint32_t cols, float inverse_cols,
                        float eps) {
    norm_forward<bf16, true>(out, h, mean, rstd, inp, branch, weight, bias, rows, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_forward_any_bf16(bf16* out, bf16* h, float* mean, float* rstd, const bf16* inp, const bf16* branch,
                            const bf16* weight, const bf16* bias, uint32_t cols, float inverse_cols, float eps) {
    norm_forward_any<bf16, true>(out, h, mean, rstd, inp, branch, weight, bias, cols, inverse_cols, eps);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_backward_bf16(bf16* dinp, float* partial, const bf16* dout, const bf16* inp, const bf16* weight,
                         const float* mean, const float* rstd, uint32_t rows, uint32_t cols, float inverse_cols,
                         uint32_t accumulate) {
    norm_backward<bf16, true>(dinp, partial, dout, inp, weight, mean, rstd, rows, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_any_bf16(bf16* dinp, const bf16* dout, const bf16* inp, const bf16* weight, const float* mean,
                             const float* rstd, uint32_t cols, float inverse_cols, uint32_t accumulate) {
    norm_backward_any<bf16, true>(dinp, dout, inp, weight, mean, rstd, cols, inverse_cols, accumulate);
}

extern "C" __global__ void __launch_bounds__(256)
    layernorm_backward_parameters_any_bf16(float* partial, const bf16* dout, const bf16* inp, const float* mean,
                                        const float* rstd, uint64_t rows, uint32_t cols) {
    norm_backward_parameters_any<bf16, true>(partial, dout, inp, mean, rstd, rows, cols);
}

extern "C" __global__ void __launch_bounds__(1024)
    layernorm_parameters(float* dweight, float* dbias, const float* partial, uint32_t blocks, uint32_t cols,
                         uint32_t accumulate_weight, uint32_t accumulate_bias) {
    norm_parameters(dweight, dbias, partial, blocks, cols, accumulate_weight, accumulate_bias);
}
