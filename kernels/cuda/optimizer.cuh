// optimizer.cuh: what the optimizer keeps in device memory, so that a step needs nothing from the host.
//
// The layouts are written down a second time, as Rust constants, in src/optimizer.rs; a test fills and reads them through both.

#pragma once

#include <stdint.h>

// A run of at most CHUNK neighbouring elements of one parameter: eight 64-bit words of the table that all kernels of the optimizer walk.
struct Chunk {
    const float* grad;
    // What the model computes with: f32, or the half-precision copy of `master`.
    void* value;
    // The f32 original of a half-precision value; null for f32.
    float* master;
    float *m, *v;
    uint32_t count;
    // 1 when all pointers allow four elements an access.
    uint32_t aligned;
    // Of value: 0 f32, 1 f16, 2 bf16.
    uint32_t dtype;
    // Bits of an f32.
    uint32_t weight_decay;
    uint64_t unused;
};
static_assert(sizeof(Chunk) == 64, "the table is written as eight words a chunk");

constexpr int CHUNK = 16384;

// What changes from step to step: twelve 32-bit words.
struct OptimizerState {
    // Steps, skipped ones included: the position in the table of learning rates.
    uint32_t step;
    // AdamW updates: t of the bias correction.
    uint32_t updates;
    // Steps skipped because a gradient was not finite.
    uint32_t skipped;
    // Steps without overflow since the loss scale last changed.
    uint32_t clean;
    // Of the last step: 1 when its gradients were finite and it counted.
    uint32_t applied;
    // Of the last step: what gradients are multiplied by first, clip factor / loss scale.
    float grad_scale;
    // Of the last step: lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
    float step_size, v_correction;
    // Of the last step: the learning rate, and the norm of the unscaled gradients.
    double lr, norm;
};
static_assert(sizeof(OptimizerState) == 48, "the state is read as twelve words");

// What stays: eleven f64.
struct OptimizerSettings {
    double beta1, beta2, eps;
    // 0 turns clipping off.
    double clip_norm;
    // Dynamic loss scaling: 1 on, 0 off.
    double scaling;
    double growth, backoff, growth_interval, floor, ceiling;
    // Entries of the table of learning rates; past its end the last one stays.
    double rates;
};
static_assert(sizeof(OptimizerSettings) == 88, "the settings are written as eleven f64");
