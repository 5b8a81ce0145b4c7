// The backward of attention, f16 and bf16. With w the weights, m the dropout factor (0 or 1 / (1 - p)), dw = dout v^T,
// and delta[i] = sum_d dout[i,d] out[i,d] = sum_j w[i,j] m[i,j] dw[i,j]:
//   dv[j] = sum_i w m dout[i],  ds[i,j] = w (m dw - delta[i]),  dq[i] = scale sum_j ds k[j],  dk[j] = scale sum_i ds q[i],
//   dbias[h,i,j] = sum over the batch of ds.
// w is computed again from q, k and the log-sum-exp that forward saved. dq sums over keys and dk, dv over queries, so each
// has a kernel of its own whose blocks own what they sum: seven products of tiles where one kernel would do five, but no
// atomics, no second pass, and the same bits on every run.
//
// Launch attention_backward_queries first: it leaves {lse, delta} of every query for the other two.
// Source: Dao et al. 2022, arXiv:2205.14135, algorithm 4 and appendix B.

#include "attention_half.cuh"

// sum_d of two tiles' rows, for the warp's 16 rows from `row` on: lane l gets row l / 2. Two lanes share a row, and take
// the chunks of each swizzle period by halves, which keeps the banks apart.
template <typename T, int D>
__device__ __forceinline__ float row_dot(uint32_t a_tile, uint32_t b_tile, int row) {
    const int lane = threadIdx.x % 32;
    float sum = 0.0f;
#pragma unroll 2
    for (int i = 0; i < D / 16; ++i) {
        const uint32_t at = swizzled<2 * D>(row + lane / 2, i / 4 * 8 + i % 4 + lane % 2 * 4);
        const uint4 a = load_shared_128(a_tile + at), b = load_shared_128(b_tile + at);
        const uint32_t a_words[4] = {a.x, a.y, a.z, a.w}, b_words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 x = unpack2<T>(a_words[j]), y = unpack2<T>(b_words[j]);
            sum = fmaf(x.x, y.x, sum);
            sum = fmaf(x.y, y.y, sum);
        }
    }
    return sum + __shfl_xor_sync(FULL_MASK, sum, 1);
}

// From scores s and dw to ds, in dw's place, where accumulators' rows are queries.
template <typename T>
__device__ __forceinline__ void score_gradients(
    float (&s)[8][4], float (&dw)[8][4], const Problem<T>& p, const Exponent& exponent, const float2 (&stats)[2],
    const Dropout& dropout, int head, int row, int first) {
    if (dropout.on) {
        uint32_t keep[2];
        draw_rows(keep, p, dropout.step, head, row, first);
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const bool kept = keep[i % 4 / 2] >> kept_bit(i / 4, i % 2) & 1;
            dw[i / 4][i % 4] *= kept ? p.keep_scale : 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const float2 of_query = stats[i % 4 / 2];
        const float w = exp2_approximate(fmaf(s[i / 4][i % 4], exponent.factor, -of_query.x));
        dw[i / 4][i % 4] = w * (dw[i / 4][i % 4] - of_query.y);
    }
}

// attention_backward_queries: dq, overwritten or added to; and stats, for the kernels below
// shapes   dq as q, with strides of its own; stats (B, NH, Tq rounded up to even, 2) f32: lse (0 for -infinity) and delta;
//          dout, out (B, Tq, NH, HS) contiguous; lse (B, NH, Tq) f32, as forward left it
// traffic  reads Q, dout, out once, K and V once per query block (from L2 after the first); writes dq once
// launch   grid (B * NH, ceil(Tq / 64)), block 128, shared 6 * 64 * D * 2 bytes; longest rows first when causal
// limits   HS <= 128, Tq <= 65535 * 64; any strides
// order    keys in tiles of 64 in ascending order: bitwise repeatable
template <typename T, int D>
__device__ __forceinline__ void backward_queries(
    T* dq, size_t dq_batch, size_t dq_row, float2* stats, const T* dout, const T* out, const float* lse, int accumulate,
    const Problem<T>& p) {
    constexpr int TILE_BYTES = TILE * D * 2;
    extern __shared__ uint4 shared[];
    const uint32_t q_tile = shared_address(shared), dout_tile = q_tile + TILE_BYTES;
    uint32_t stage = dout_tile + TILE_BYTES, next = stage + 2 * TILE_BYTES;
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = (gridDim.y - 1 - blockIdx.y) * TILE, offset = p.keys - p.queries;
    const int warp_row = threadIdx.x / 32 * 16, row = first + warp_row;
    const int keys = p.causal ? min(p.keys, offset + min(first + TILE, p.queries)) : p.keys;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const Matrix<T> rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                               head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
    const Matrix<T> outs[1] = {head_of(out, p.queries * out_row, out_row, b, h, p.head_size)};
    const Matrix<T> kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                             head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    const int groups = (p.head_size + 31) / 32;
    const Dropout dropout(p);
    const Exponent exponent(p);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

    float2 of_query[2];
    float acc[1][D / 8][4] = {};
    load_tiles<TILE, D>(q_tile, rows, first, p.queries, p.head_size, p.vector);
    load_tiles<TILE, D>(stage, outs, first, p.queries, p.head_size, p.vector);
    cp_async_commit();
#pragma unroll 1
    for (int tile = -TILE; tile < keys; tile += TILE) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all warps have left the one before
        if (tile + TILE < keys) load_tiles<TILE, D>(next, kv, tile + TILE, p.keys, p.head_size, p.vector);
        cp_async_commit();
        const uint32_t k_tile = stage, v_tile = stage + TILE_BYTES;
        stage = next;
        next = k_tile;
        if (tile < 0) {  // out lies where the second tile of keys will
            const float delta = row_dot<T, D>(dout_tile, k_tile, warp_row);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int query = row + g + 8 * half;
                const bool inside = query < p.queries;
                const float saved = inside ? lse[static_cast<size_t>(head) * p.queries + query] : 0.0f;
                of_query[half] = {finite_exponent(saved), __shfl_sync(FULL_MASK, delta, 2 * (g + 8 * half))};
                if (inside && t == 0) stats[head * stats_row(p.queries) + query] = of_query[half];
            }
            continue;
        }
        const uint64_t visible = visible_keys<TILE>(p, b, tile);
        if (visible == 0 || row >= p.queries || (p.causal && tile >= offset + row + 16)) continue;
        float s[1][8][4] = {}, dw[1][8][4] = {};
        multiply_transposed<T, 1, 8, D>(s, q_tile, warp_row, k_tile, groups);
        multiply_transposed<T, 1, 8, D>(dw, dout_tile, warp_row, v_tile, groups);
        finish_scores<T, 1>(s, p, exponent, visible, h, row, tile);
        score_gradients(s[0], dw[0], p, exponent, of_query, dropout, head, row, tile);
        multiply<T, 1, 8, D>(acc, dw, k_tile, groups);
    }

#pragma unroll
    for (int i = 0; i < D / 2; ++i) acc[0][i / 4][i % 4] *= p.scale;
    dq += b * dq_batch + static_cast<size_t>(h) * p.head_size;
    store_rows<T, 1, D>(dq, dq_row, acc, q_tile + warp_row * 2 * D, row, p.queries, p.head_size, p.vector,
                         accumulate);
}

// Keep bits of 16 keys from `row` on and the 8 * NT queries from `first` on, where accumulators' rows are keys: bit
// 4 * n + g % 4 of keep[2 * half + e] for element [n][2 * half + e]. Four lanes share words of four keys; each draws for
// one half and one e, and they exchange.
template <int NT, typename T>
__device__ __forceinline__ void draw_columns(
    uint32_t (&keep)[4], const Problem<T>& p, uint32_t step, int head, int row, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, share = g % 4;
    uint32_t drawn = 0;
#pragma unroll 1
    for (int n = 0; n < NT; ++n) {
        drawn |= keep_bits(p, step, head, first + 8 * n + 2 * t + share % 2, row / 4 + g / 4 + share / 2 * 2) << 4 * n;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) keep[i] = __shfl_sync(FULL_MASK, drawn, (g / 4 * 4 + i) * 4 + t) >> share;
}

// finish_scores where accumulators' rows are keys and columns queries.
template <typename T, int NT>
__device__ __forceinline__ void finish_columns(
    float (&s)[NT][4], const Problem<T>& p, const Exponent& exponent, const bool (&visible)[2], bool all_visible, int head,
    int row, int first) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    if (exponent.scaled_first) {
#pragma unroll
        for (int i = 0; i < 4 * NT; ++i) s[i / 4][i % 4] *= p.scale;
    }
    if (p.bias != nullptr) {
        // Past the last query or key, the last one's bias stands in: what it is added to is hidden or never stored.
        const float* bias = p.bias + static_cast<size_t>(head) * p.queries * p.keys;
#pragma unroll
        for (int i = 0; i < 2 * NT; ++i) {
            const int query = min(first + i / 2 * 8 + 2 * t + i % 2, p.queries - 1);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int key = min(row + g + 8 * half, p.keys - 1);
                s[i / 2][2 * half + i % 2] += bias[static_cast<size_t>(query) * p.keys + key];
            }
            if (i % 8 == 7) __syncwarp();  // no more loads under way than registers hold
        }
    }
    const int offset = p.keys - p.queries + first;  // key j is seen from query j - offset of this tile on
    if (all_visible && first + 8 * NT <= p.queries && !(p.causal && row + 15 > offset)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint64_t seen = visible[half] ? up_to(~0ull, p.queries - 1 - first) : 0;
        if (p.causal) seen = from(seen, row + g + 8 * half - offset);
        hide(s, half, seen >> 2 * t);
    }
}

// From scores s and dw to w (0 where dropped) and ds, in their places, where accumulators' rows are keys.
template <typename T, int NT>
__device__ __forceinline__ void weights_and_gradients(
    float (&s)[NT][4], float (&dw)[NT][4], const Problem<T>& p, const Exponent& exponent, uint32_t stats, const Dropout& dropout,
    int head, int row, int first) {
    const int t = threadIdx.x % 4;
    uint32_t keep[4] = {~0u, ~0u, ~0u, ~0u};
    float keep_scale = 1.0f;
    if (dropout.on) {
        draw_columns<NT>(keep, p, dropout.step, head, row, first);
        keep_scale = p.keep_scale;
    }
#pragma unroll
    for (int n = 0; n < NT; ++n) {
        const uint4 bits = load_shared_128(stats + (8 * n + 2 * t) * 8);
        const float2 of_query[2] = {{__uint_as_float(bits.x), __uint_as_float(bits.y)},
                                    {__uint_as_float(bits.z), __uint_as_float(bits.w)}};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool kept = keep[i] >> 4 * n & 1;
            const float w = exp2_approximate(fmaf(s[n][i], exponent.factor, -of_query[i % 2].x));
            dw[n][i] = w * ((kept ? dw[n][i] * keep_scale : 0.0f) - of_query[i % 2].y);
            s[n][i] = kept ? w : 0.0f;
        }
    }
}

// attention_backward_keys: dk and dv, overwritten or added to
// shapes   dk, dv as k and v, with strides of their own; stats from attention_backward_queries; dout as there
// traffic  reads K, V once, Q, dout, stats once per key block (from L2 after the first); writes dk, dv once
// launch   grid (B * NH, ceil(Tk / 64)), block 128, shared (128 + 4 * N) * D * 2 + 16 * N bytes with N = 64 queries a step for
//          HS <= 64, else 32; longest first when causal
// limits   HS <= 128, Tk <= 65535 * 64; any strides
// order    queries in ascending order: bitwise repeatable
// Scores are computed transposed, keys as rows: then w^T and ds^T are operands of the next products as they lie in the
// registers.
template <typename T, int D>
__device__ __forceinline__ void backward_keys(
    T* dk, size_t dk_batch, size_t dk_row, T* dv, size_t dv_batch, size_t dv_row, const float2* stats, const T* dout,
    int accumulate, const Problem<T>& p) {
    constexpr int N = D <= 64 ? 64 : 32, NT = N / 8;  // queries a step: what the registers hold beside dk and dv
    constexpr int TILE_BYTES = TILE * D * 2, STEP_BYTES = N * D * 2;
    extern __shared__ uint4 shared[];
    const uint32_t k_tile = shared_address(shared), v_tile = k_tile + TILE_BYTES;
    uint32_t stage = v_tile + TILE_BYTES, next = stage + 2 * STEP_BYTES;
    uint32_t stage_stats = next + 2 * STEP_BYTES, next_stats = stage_stats + N * 8;
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = blockIdx.y * TILE, offset = p.keys - p.queries;
    const int warp_row = threadIdx.x / 32 * 16, row = first + warp_row;
    const int g = threadIdx.x % 32 / 4;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const Matrix<T> rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                               head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
    const Matrix<T> kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                             head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    stats += head * stats_row(p.queries);
    const int groups = (p.head_size + 31) / 32;
    const Dropout dropout(p);
    const Exponent exponent(p);
    const bool visible[2] = {key_visible(p, b, row + g), key_visible(p, b, row + g + 8)};
    const bool all_visible = __all_sync(FULL_MASK, visible[0] && visible[1]);
    const bool none_visible = !__any_sync(FULL_MASK, visible[0] || visible[1]);
    const int start = p.causal ? max(0, first - offset) / N * N : 0;

    float dk_acc[1][D / 8][4] = {}, dv_acc[1][D / 8][4] = {};
    load_tiles<TILE, D>(k_tile, kv, first, p.keys, p.head_size, p.vector);
#pragma unroll 1
    for (int tile = start - N; tile < p.queries; tile += N) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all warps have left the one before
        if (tile + N < p.queries) {
            load_tiles<N, D>(next, rows, tile + N, p.queries, p.head_size, p.vector);
            const int query = tile + N + 2 * threadIdx.x, left = p.queries - query;
            if (threadIdx.x < N / 2) {
                cp_async_16(next_stats + 16 * threadIdx.x, left > 0 ? stats + query : stats, max(0, min(16, 8 * left)));
            }
        }
        cp_async_commit();
        const uint32_t q_tile = stage, dout_tile = stage + STEP_BYTES, tile_stats = stage_stats;
        stage = next, stage_stats = next_stats;
        next = q_tile, next_stats = tile_stats;
        if (tile < start || none_visible || (p.causal && row > offset + tile + N - 1)) continue;

        float s[1][NT][4] = {}, dw[1][NT][4] = {};
        multiply_transposed<T, 1, NT, D>(s, k_tile, warp_row, q_tile, groups);
        multiply_transposed<T, 1, NT, D>(dw, v_tile, warp_row, dout_tile, groups);
        finish_columns<T, NT>(s[0], p, exponent, visible, all_visible, h, row, tile);
        weights_and_gradients<T, NT>(s[0], dw[0], p, exponent, tile_stats, dropout, head, row, tile);
        multiply<T, 1, NT, D>(dv_acc, s, dout_tile, groups);
        multiply<T, 1, NT, D>(dk_acc, dw, q_tile, groups);
    }

    const float dv_scale = dropout.on ? p.keep_scale : 1.0f;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) {
        dk_acc[0][i / 4][i % 4] *= p.scale;
        dv_acc[0][i / 4][i % 4] *= dv_scale;
    }
    dk += b * dk_batch + static_cast<size_t>(h) * p.head_size;
    dv += b * dv_batch + static_cast<size_t>(h) * p.head_size;
    // A warp reads no rows of K and V but its own.
    store_rows<T, 1, D>(dk, dk_row, dk_acc, k_tile + warp_row * 2 * D, row, p.keys, p.head_size, p.vector,
                         accumulate);
    store_rows<T, 1, D>(dv, dv_row, dv_acc, v_tile + warp_row * 2 * D, row, p.keys, p.head_size, p.vector,
                         accumulate);
}

// attention_backward_bias: dbias[h,i,j] = sum over b of ds[b,h,i,j], overwritten or added to
// shapes   dbias (NH, Tq, Tk) f32; the rest as attention_backward_keys
// traffic  reads Q, dout ceil(Tk / 64) times, K, V ceil(Tq / 64) times; writes dbias once
// launch   grid (ceil(Tk / 64), ceil(Tq / 64), NH), block 128, shared 4 * 64 * 256 bytes
// limits   HS <= 128, Tq <= 65535 * 64, NH <= 65535; any strides
// order    the batch in ascending order: bitwise repeatable
template <typename T>
__device__ __forceinline__ void backward_bias(
    float* dbias, const float2* stats, const T* dout, int accumulate, int batch, const Problem<T>& p) {
    constexpr int D = 128, TILE_BYTES = TILE * D * 2;
    extern __shared__ uint4 shared[];
    const uint32_t q_tile = shared_address(shared), dout_tile = q_tile + TILE_BYTES;
    const uint32_t k_tile = dout_tile + TILE_BYTES, v_tile = k_tile + TILE_BYTES;
    const int h = blockIdx.z, tile = blockIdx.x * TILE, first = blockIdx.y * TILE;
    const int warp_row = threadIdx.x / 32 * 16, row = first + warp_row;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const int groups = (p.head_size + 31) / 32;
    const Dropout dropout(p);
    const Exponent exponent(p);
    const bool hidden = p.causal && tile > p.keys - p.queries + first + TILE - 1;

    float sum[8][4] = {};
#pragma unroll 1
    for (int b = hidden ? batch : 0; b < batch; ++b) {
        const Matrix<T> rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                                   head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
        const Matrix<T> kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                                 head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
        __syncthreads();  // all warps have left the sequence before
        load_tiles<TILE, D>(q_tile, rows, first, p.queries, p.head_size, p.vector);
        load_tiles<TILE, D>(k_tile, kv, tile, p.keys, p.head_size, p.vector);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        const uint64_t visible = visible_keys<TILE>(p, b, tile);
        if (visible == 0 || row >= p.queries) continue;
        const int head = b * p.heads + h;
        float2 of_query[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = min(row + g + 8 * half, p.queries - 1);
            of_query[half] = stats[head * stats_row(p.queries) + query];
        }
        float s[1][8][4] = {}, dw[1][8][4] = {};
        multiply_transposed<T, 1, 8, D>(s, q_tile, warp_row, k_tile, groups);
        multiply_transposed<T, 1, 8, D>(dw, dout_tile, warp_row, v_tile, groups);
        finish_scores<T, 1>(s, p, exponent, visible, h, row, tile);
        score_gradients(s[0], dw[0], p, exponent, of_query, dropout, head, row, tile);
#pragma unroll
        for (int i = 0; i < 32; ++i) sum[i / 4][i % 4] += dw[0][i / 4][i % 4];
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const int query = row + g + i % 4 / 2 * 8, key = tile + i / 4 * 8 + 2 * t + i % 2;
        if (query < p.queries && key < p.keys) {
            float& to = dbias[(static_cast<size_t>(h) * p.queries + query) * p.keys + key];
            to = accumulate ? to + sum[i / 4][i % 4] : sum[i / 4][i % 4];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs64_f16(
    f16* dq, size_t dq_batch, size_t dq_row, float2* stats, const f16* dout, const f16* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(f16)) {
    backward_queries<f16, 64>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs128_f16(
    f16* dq, size_t dq_batch, size_t dq_row, float2* stats, const f16* dout, const f16* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(f16)) {
    backward_queries<f16, 128>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs64_f16(
    f16* dk, size_t dk_batch, size_t dk_row, f16* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const f16* dout, int accumulate, ATTENTION_PARAMETERS(f16)) {
    backward_keys<f16, 64>(
        dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs128_f16(
    f16* dk, size_t dk_batch, size_t dk_row, f16* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const f16* dout, int accumulate, ATTENTION_PARAMETERS(f16)) {
    backward_keys<f16, 128>(
        dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_bias_f16(
    float* dbias, const float2* stats, const f16* dout, int accumulate, int batch, ATTENTION_PARAMETERS(f16)) {
    backward_bias<f16>(dbias, stats, dout, accumulate, batch, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs64_bf16(
    bf16* dq, size_t dq_batch, size_t dq_row, float2* stats, const bf16* dout, const bf16* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(bf16)) {
    backward_queries<bf16, 64>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs128_bf16(
    bf16* dq, size_t dq_batch, size_t dq_row, float2* stats, const bf16* dout, const bf16* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(bf16)) {
    backward_queries<bf16, 128>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs64_bf16(
    bf16* dk, size_t dk_batch, size_t dk_row, bf16* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const bf16* dout, int accumulate, ATTENTION_PARAMETERS(bf16)) {
    backward_keys<bf16, 64>(
        dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs128_bf16(
    bf16* dk, size_t dk_batch, size_t dk_row, bf16* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const bf16* dout, int accumulate, ATTENTION_PARAMETERS(bf16)) {
    backward_keys<bf16, 128>(
        dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_bias_bf16(
    float* dbias, const float2* stats, const bf16* dout, int accumulate, int batch, ATTENTION_PARAMETERS(bf16)) {
    backward_bias<bf16>(dbias, stats, dout, accumulate, batch, {ATTENTION_ARGUMENTS});
}
