// GELU and its derivative at one point: gelu(x) = x Phi(x), exactly (erf form) or through the tanh fit. Elementwise and as an
// epilogue of matmul: short enough to hide behind tensor cores.
// Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; erfc from Press et al., Numerical Recipes in C, 2nd ed., section 6.2
// (Chebyshev fit, fractional error 1.2e-7 everywhere).
// Error against f64: kernels/tests/matmul (epilogues) and the cards of gelu.

#pragma once

struct GeluPoint {
    float value, slope;
};

// 2^x within 2 ulp, and 1 / x within 1 ulp; subnormal results are 0 (PTX ISA: ex2.approx.ftz, rcp.approx.ftz).
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

constexpr float LOG2_E = 1.4426950409f;

// (1 + tanh u) / 2 = 1 / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3) keeps its relative accuracy where tanh u
// rounds to -1.
__device__ __forceinline__ GeluPoint gelu_tanh(float x) {
    constexpr float LINEAR = 0.7978845608f, CUBIC = 0.044715f * LINEAR;
    const float square = x * x;
    const float gate = reciprocal_fast(1.0f + exp2_fast(x * fmaf(-2.0f * LOG2_E * CUBIC, square, -2.0f * LOG2_E * LINEAR)));
    const float du = fmaf(3.0f * CUBIC, square, LINEAR);
    // d gate / dx = 2 gate (1 - gate) du; where gate is 0 or 1 it is 0, although du may have overflowed.
    const float bend = 2.0f * x * fmaf(-gate, gate, gate);
    return {x * gate, bend == 0.0f ? gate : fmaf(bend, du, gate)};
}

// Phi(x) = erfc(-x / sqrt 2) / 2 keeps its relative accuracy in the negative tail, where 1 + erf cancels.
__device__ __forceinline__ GeluPoint gelu_erf(float x) {
    const float z = 0.7071067812f * fabsf(x);
    const float t = reciprocal_fast(fmaf(0.5f, z, 1.0f));
    float p = 0.17087277f;
    p = fmaf(p, t, -0.82215223f);
    p = fmaf(p, t, 1.48851587f);
    p = fmaf(p, t, -1.13520398f);
    p = fmaf(p, t, 0.27886807f);
    p = fmaf(p, t, -0.18628806f);
    p = fmaf(p, t, 0.09678418f);
    p = fmaf(p, t, 0.37409196f);
    p = fmaf(p, t, 1.00002368f);
    p = fmaf(p, t, -1.26551223f);
    const float tail = 0.5f * t * exp2_fast(LOG2_E * fmaf(-z, z, p));
    const float gate = x > 0.0f ? 1.0f - tail : tail;
    const float density = 0.3989422804f * exp2_fast(-0.5f * LOG2_E * x * x);
    return {x * gate, fmaf(x, density, gate)};
}
