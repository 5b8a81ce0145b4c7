// attention_forward: out[i] = sum_j w[i,j] v[j],  w[i,:] = softmax over visible j of (scale q[i].k[j] + bias[h,i,j])
//   Flash attention: a block owns queries of one head and walks over tiles of 64 keys, with the softmax's maximum, its sum
//   and the output rescaled as it goes, so that no score leaves the registers. A query that sees no key gets out 0 and
//   lse -infinity.
//   Dropout multiplies w by 0 or 1 / (1 - p) after the sum, by the generator's draw for (batch, head, query, key).
// shapes   q (B, Tq, NH, HS), k, v (B, Tk, NH, HS) f16 or bf16, batches and rows with strides of their own; out as q,
//          contiguous; lse (B, NH, Tq) f32, log2 of the sum of e^score, read by backward; key_mask (B, Tk); bias (NH, Tq, Tk)
// traffic  reads Q once, K and V once per query block (from L2 after the first), writes out and lse once
// launch   grid (B * NH, ceil(Tq / rows)), block 128; rows = 128 for HS <= 64, else 64; shared (rows + 256) * D * 2 bytes,
//          D = 64 or 128 columns; longest rows first when causal
// pipeline tile j + 1 of K and V is copied by cp.async while tile j is multiplied: two stages, one barrier per tile
// limits   HS <= 128, Tq <= 65535 * rows; any strides (16-byte copies when all rows are 16-byte aligned)
// order    keys in tiles of 64 in ascending order, no atomics: bitwise repeatable
// numerics products accumulate in f32; weights are rounded to the storage dtype for the second product only
// source   Dao et al. 2022, arXiv:2205.14135, algorithm 1; Dao 2023, arXiv:2307.08691, section 3; docs/src/ops/attention.md

#include "attention_half.cuh"

// One step of the online softmax over 64 more scores of 16 rows: turns s into weights relative to the new maximum, and
// rescales what was summed before. `row_sum` is this lane's share.
template <int NO>
__device__ __forceinline__ void softmax_step(
    float (&s)[8][4], float (&o)[NO][4], float (&row_max)[2], float (&row_sum)[2], float factor) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float highest = row_max[half];
#pragma unroll
        for (int n = 0; n < 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(FULL_MASK, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(FULL_MASK, highest, 2));
        // Nothing seen yet: any finite shift leaves weights of 2^-infinity = 0.
        const float shift = highest == NEGATIVE_INFINITY ? 0.0f : -highest * factor;
        const float rescale = exp2_approximate(fmaf(row_max[half], factor, shift));
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                s[n][2 * half + e] = exp2_approximate(fmaf(s[n][2 * half + e], factor, shift));
                sum += s[n][2 * half + e];
            }
        row_max[half] = highest;
        row_sum[half] = fmaf(row_sum[half], rescale, sum);
#pragma unroll
        for (int d = 0; d < NO; ++d) {
            o[d][2 * half] *= rescale;
            o[d][2 * half + 1] *= rescale;
        }
    }
}

// MT: groups of 16 query rows per warp. Two share each fragment of K and V, which halves the shared-memory reads per
// product; their accumulators fit the registers up to D = 64.
template <typename T, int D, int MT>
__device__ __forceinline__ void forward(T* out, float* lse, const Problem<T>& p) {
    constexpr int ROWS = 64 * MT, TILE_BYTES = TILE * D * 2;
    extern __shared__ uint4 shared[];
    const uint32_t q_tile = shared_address(shared), stages = q_tile + ROWS * D * 2;
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = (gridDim.y - 1 - blockIdx.y) * ROWS, offset = p.keys - p.queries;
    const int warp_row = threadIdx.x / 32 * 16 * MT, row = first + warp_row;  // of this warp: in the tile, and in all
    const int warp_end = min(row + 16 * MT, p.queries), block_end = min(first + ROWS, p.queries);
    const int keys = p.causal ? min(p.keys, offset + block_end) : p.keys;
    const Matrix<T> q[1] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size)};
    const Matrix<T> kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                             head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    const int groups = (p.head_size + 31) / 32;
    const Dropout dropout(p);
    const Exponent exponent(p);

    float o[MT][D / 8][4] = {}, row_max[MT][2], row_sum[MT][2] = {};
#pragma unroll
    for (int m = 0; m < MT; ++m) row_max[m][0] = row_max[m][1] = NEGATIVE_INFINITY;

    load_tiles<ROWS, D>(q_tile, q, first, p.queries, p.head_size, p.vector);
    uint32_t stage = stages, next = stages + 2 * TILE_BYTES;
#pragma unroll 1
    for (int tile = -TILE; tile < keys; tile += TILE) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all warps have left the one before
        if (tile + TILE < keys) load_tiles<TILE, D>(next, kv, tile + TILE, p.keys, p.head_size, p.vector);
        cp_async_commit();
        const uint32_t k_tile = stage, v_tile = stage + TILE_BYTES;
        stage = next;
        next = k_tile;
        if (tile < 0) continue;
        const uint64_t visible = visible_keys<TILE>(p, b, tile);
        if (visible == 0 || row >= p.queries || (p.causal && tile >= offset + warp_end)) continue;

        float s[MT][8][4] = {};
        multiply_transposed<T, MT, 8, D>(s, q_tile, warp_row, k_tile, groups);
        finish_scores<T, MT>(s, p, exponent, visible, h, row, tile);
#pragma unroll
        for (int m = 0; m < MT; ++m) softmax_step(s[m], o[m], row_max[m], row_sum[m], exponent.factor);
        if (dropout.on) {
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                uint32_t keep[2];
                draw_rows(keep, p, dropout.step, head, row + 16 * m, tile);
#pragma unroll
                for (int i = 0; i < 32; ++i) {
                    if (!(keep[i % 4 / 2] >> kept_bit(i / 4, i % 2) & 1)) s[m][i / 4][i % 4] = 0.0f;
                }
            }
        }
        multiply<T, MT, 8, D>(o, s, v_tile, groups);
    }

    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = row_sum[m][half];
            sum += __shfl_xor_sync(FULL_MASK, sum, 1);
            sum += __shfl_xor_sync(FULL_MASK, sum, 2);
            const int query = row + 16 * m + g + 8 * half;
            if (t == 0 && query < p.queries) {
                lse[static_cast<size_t>(head) * p.queries + query] = fmaf(row_max[m][half], exponent.factor, log2f(sum));
            }
            const float inverse = sum == 0.0f ? 0.0f : (dropout.on ? p.keep_scale : 1.0f) / sum;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) {
                o[m][d][2 * half] *= inverse;
                o[m][d][2 * half + 1] *= inverse;
            }
        }
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    out += b * p.queries * out_row + static_cast<size_t>(h) * p.head_size;
    store_rows<T, MT, D>(out, out_row, o, q_tile + warp_row * 2 * D, row, p.queries, p.head_size,
                         p.vector, false);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_forward_hs64_f16(f16* out, float* lse, ATTENTION_PARAMETERS(f16)) {
    forward<f16, 64, 2>(out, lse, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_forward_hs128_f16(f16* out, float* lse, ATTENTION_PARAMETERS(f16)) {
    forward<f16, 128, 1>(out, lse, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_forward_hs64_bf16(bf16* out, float* lse, ATTENTION_PARAMETERS(bf16)) {
    forward<bf16, 64, 2>(out, lse, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_forward_hs128_bf16(bf16* out, float* lse, ATTENTION_PARAMETERS(bf16)) {
    forward<bf16, 128, 1>(out, lse, {ATTENTION_ARGUMENTS});
}
