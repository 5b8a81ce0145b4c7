// philox.cuh: Philox 4x32-10, the counter-based generator behind dropout.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Draw for draw the engine's `philox.rs`: a
// function of (seed, stream, step, index), so that a mask is never stored and every device draws the same one.

#pragma once

#include <stdint.h>

// Ten rounds on one counter.
__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// The four words at position `index` of a stream.
__device__ __forceinline__ uint4 philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint64_t index) {
    return philox4x32_10(make_uint4(uint32_t(index), uint32_t(index >> 32), stream, step),
                         make_uint2(uint32_t(seed), uint32_t(seed >> 32)));
}

// The factor on an element: 0 with the drop probability, else keep = 1 / (1 - drop_prob). `threshold` is the probability in units of
// 2^-24, the resolution of a draw.
__device__ __forceinline__ float dropout_factor(uint32_t word, uint32_t threshold, float keep) {
    return (word >> 8) >= threshold ? keep : 0.0f;
}
