// Attention forward and backward in true FP32: the kernels of attention.cu and attention_backward.cu, which say what each
// computes, without tensor cores.
//
// A block of 16 x 16 threads owns R rows of one head (queries, or keys for dk and dv) and walks over tiles of R columns.
// Thread (y, x) holds the scores of rows N y .. and columns N x .. with N = R / 16, and of the rows' results the columns
// 2 x, 2 x + 1 of every 32. R = 64 for HS <= 64, else 32: what shared memory holds.
// launch   grid (B * NH, ceil(Tq or Tk / R)), block 256, shared bytes: R * D * 4 for each of Q, K, V (and dout), R * R * 4
//          for weights, R * 8 for stats in the dk, dv kernel
// limits   HS <= 128, at most 65535 * R rows; any strides (16-byte copies when all rows are 16-byte aligned)
// order    tiles, and rows within, in ascending order, no atomics: bitwise repeatable

#include "attention.cuh"
#include "mma.cuh"

constexpr int THREADS = 256;

// A tile: R rows, padded with zeros to D columns. Chunks of four columns are swizzled with the row, so that the 16 threads
// that read one chunk of rows N apart, or a row's chunks side by side, meet no bank conflict.
template <int D>
struct Tile {
    static constexpr int R = D <= 64 ? 64 : 32, N = R / 16;
    static_assert(D == 64 || D == 128, "head sizes are padded to these");
    float* data;

    __device__ __forceinline__ float* chunk(int row, int chunk) const {
        return data + row * D + (chunk ^ row / N % 8) * 4;
    }
    __device__ __forceinline__ float4 four(int row, int chunk) const {
        return *reinterpret_cast<const float4*>(this->chunk(row, chunk));
    }
    __device__ __forceinline__ float2 pair(int row, int pair) const {
        return *reinterpret_cast<const float2*>(chunk(row, pair / 2) + pair % 2 * 2);
    }
};

// A (rows, head_size) matrix of one head; row r starts at data[r * stride].
struct Matrix {
    const float* data;
    size_t stride;
};

__device__ __forceinline__ Matrix head_of(
    const float* data, size_t batch_stride, size_t stride, int b, int h, int head_size) {
    return {data + b * batch_stride + static_cast<size_t>(h) * head_size, stride};
}

// Starts loading rows first .. first + R of one or two matrices (rows, head_size) into tiles one after the other; what lies
// outside becomes zero. Without `vector`, rows may start anywhere and are copied element by element, at once.
template <int D, int COUNT>
__device__ __forceinline__ void load_tiles(
    Tile<D> tile, const Matrix (&matrices)[COUNT], int first, int rows, int head_size, bool vector) {
    constexpr int R = Tile<D>::R, LANES = D / 4, STEP = THREADS / LANES;
#pragma unroll 1
    for (int i = 0; i < COUNT; ++i, tile.data += R * D) {
        const float* source = i == 0 ? matrices[0].data : matrices[COUNT - 1].data;
        const size_t stride = i == 0 ? matrices[0].stride : matrices[COUNT - 1].stride;
        const int chunk = threadIdx.x % LANES;
        if (vector) {
#pragma unroll 1
            for (int row = threadIdx.x / LANES; row < R; row += STEP) {
                const bool inside = first + row < rows && chunk * 4 < head_size;
                const float* from = source + static_cast<size_t>(first + row) * stride + chunk * 4;
                cp_async_16(shared_address(tile.chunk(row, chunk)), inside ? from : source, inside ? 16 : 0);
            }
        } else {
#pragma unroll 1
            for (int at = threadIdx.x; at < R * D; at += THREADS) {
                const int row = at / D, col = at % D;
                const bool inside = first + row < rows && col < head_size;
                tile.chunk(row, col / 4)[col % 4] = inside ? source[static_cast<size_t>(first + row) * stride + col] : 0.0f;
            }
        }
    }
}

// acc[i][j] += A[N y + i] . B[N x + j] over the first 4 * chunks columns, in ascending order.
template <int D>
__device__ __forceinline__ void multiply_transposed(
    float (&acc)[Tile<D>::N][Tile<D>::N], Tile<D> a_tile, Tile<D> b_tile, int chunks) {
    constexpr int N = Tile<D>::N;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        float4 a[N], b[N];
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] = a_tile.four(N * y + i, chunk), b[i] = b_tile.four(N * x + i, chunk);
#pragma unroll
        for (int i = 0; i < N; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) {
                acc[i][j] = fmaf(a[i].x, b[j].x, acc[i][j]);
                acc[i][j] = fmaf(a[i].y, b[j].y, acc[i][j]);
                acc[i][j] = fmaf(a[i].z, b[j].z, acc[i][j]);
                acc[i][j] = fmaf(a[i].w, b[j].w, acc[i][j]);
            }
    }
}

// acc[i][c] += sum_j W[N y + i][j] B[j], columns 2 x + 32 c and the next. W (R, R) goes through `weights`: rows N y .. are
// written and read by the same 16 threads of one warp, which is also all that has to wait.
template <int D>
__device__ __forceinline__ void multiply(
    float2 (&acc)[Tile<D>::N][D / 32], float* weights, const float (&w)[Tile<D>::N][Tile<D>::N], Tile<D> b_tile,
    int head_size) {
    constexpr int R = Tile<D>::R, N = Tile<D>::N;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float* to = weights + (N * y + i) * R + N * x;
        if constexpr (N == 4) {
            *reinterpret_cast<float4*>(to) = {w[i][0], w[i][1], w[i][2], w[i][3]};
        } else {
            *reinterpret_cast<float2*>(to) = {w[i][0], w[i][1]};
        }
    }
    __syncwarp();
#pragma unroll 1
    for (int j = 0; j < R; j += 4) {
        float4 a[N];
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] = *reinterpret_cast<const float4*>(weights + (N * y + i) * R + j);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int c = 0; c < D / 32; ++c) {
                if (32 * c >= head_size) break;
                const float2 b = b_tile.pair(j + k, x + 16 * c);
#pragma unroll
                for (int i = 0; i < N; ++i) {
                    const float factor = k == 0 ? a[i].x : k == 1 ? a[i].y : k == 2 ? a[i].z : a[i].w;
                    acc[i][c].x = fmaf(factor, b.x, acc[i][c].x);
                    acc[i][c].y = fmaf(factor, b.y, acc[i][c].y);
                }
            }
    }
}

// Sum or maximum over the 16 threads that share rows.
__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) x += __shfl_xor_sync(FULL_MASK, x, lane);
    return x;
}
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_MASK, x, lane));
    return x;
}

// Whether every aligned N keys of every row of the bias lie at a multiple of their size.
template <int N>
__device__ __forceinline__ bool bias_in_vectors(const Problem<float>& p) {
    return p.keys % N == 0 && reinterpret_cast<uintptr_t>(p.bias) % (4 * N) == 0;
}

// The bias of keys first .. first + N, from one query's row. Past the last key, one before it stands in.
template <int N>
__device__ __forceinline__ void load_bias(float (&to)[N], const float* row, int first, int keys, bool vector) {
    static_assert(N == 2 || N == 4, "one load of 8 or 16 bytes");
    if (vector && N == 2) {
        const float2 v = __ldg(reinterpret_cast<const float2*>(row + min(first, keys - N)));
        to[0] = v.x, to[1] = v.y;
    } else if (vector) {
        const float4 v = __ldg(reinterpret_cast<const float4*>(row + min(first, keys - N)));
        to[0] = v.x, to[1] = v.y, to[N - 2] = v.z, to[N - 1] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) to[i] = row[min(first + i, keys - 1)];
    }
}

// Scores from products: scaled and with the bias where the exponent asks for it, -infinity where hidden. Queries are the
// rows and keys the columns, or with KEYS_AS_ROWS the other way round; (row, col) is the thread's first pair.
template <bool KEYS_AS_ROWS, int N>
__device__ __forceinline__ void finish_scores(
    float (&s)[N][N], const Problem<float>& p, const Exponent& exponent, int b, int h, int row, int col) {
    if (exponent.scaled_first) {
#pragma unroll
        for (int i = 0; i < N * N; ++i) s[i / N][i % N] *= p.scale;
    }
    const int first_query = KEYS_AS_ROWS ? col : row, first_key = KEYS_AS_ROWS ? row : col;
    if (p.bias != nullptr) {
        // Past the last query or key, another one's bias stands in: what it is added to is hidden or never stored.
        const float* bias = p.bias + static_cast<size_t>(h) * p.queries * p.keys;
        const bool vector = bias_in_vectors<N>(p);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            float added[N];
            const int query = min(first_query + j, p.queries - 1);
            load_bias(added, bias + static_cast<size_t>(query) * p.keys, first_key, p.keys, vector);
#pragma unroll
            for (int i = 0; i < N; ++i) (KEYS_AS_ROWS ? s[i][j] : s[j][i]) += added[i];
        }
    }
    bool visible[N];
    if constexpr (KEYS_AS_ROWS) {
#pragma unroll
        for (int i = 0; i < N; ++i) visible[i] = key_visible(p, b, first_key + i);
    } else {
        // 16 threads next to each other hold the keys of a tile.
        const int in_tile = threadIdx.x % 16 * N;
        const uint64_t of_tile = visible_keys<16 * N>(p, b, first_key - in_tile) >> in_tile;
#pragma unroll
        for (int i = 0; i < N; ++i) visible[i] = of_tile >> i & 1;
    }
    // How far the first key lies past the last one that the first query sees.
    const int ahead = p.causal ? first_key - (p.keys - p.queries + first_query) : -N;
    const int left = p.queries - first_query;
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const int query = KEYS_AS_ROWS ? j : i, key = KEYS_AS_ROWS ? i : j;
            if (!visible[key] || query >= left || ahead > query - key) s[i][j] = NEGATIVE_INFINITY;
        }
}

// Keep bits of the thread's scores: bit 4 * j + i for query j and key i of its block of N x N.
template <int N>
__device__ __forceinline__ uint32_t draw(const Problem<float>& p, uint32_t step, int head, int query, int key) {
    static_assert(4 % N == 0, "N keys share one word of draws");
    uint32_t keep = 0;
#pragma unroll 1
    for (int j = 0; j < N; ++j) keep |= keep_bits(p, step, head, query + j, key / 4) >> key % 4 << 4 * j;
    return keep;
}

// Writes rows N y .. of a block's result to rows first + N y .. of `target` (rows, head_size), or adds them to what is
// there, by way of the rows of a tile that no other warp uses any more.
template <int D>
__device__ __forceinline__ void store_rows(
    float* target, size_t stride, const float2 (&acc)[Tile<D>::N][D / 32], Tile<D> staging, int first, int rows,
    int head_size, bool vector, bool accumulate) {
    constexpr int N = Tile<D>::N;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
            const int pair = x + 16 * c;
            *reinterpret_cast<float2*>(staging.chunk(N * y + i, pair / 2) + pair % 2 * 2) = acc[i][c];
        }
    __syncwarp();
#pragma unroll 1
    for (int at = x; at < N * D / 4; at += 16) {
        const int row = N * y + at / (D / 4), chunk = at % (D / 4);
        if (first + row >= rows || chunk * 4 >= head_size) continue;
        float* to = target + static_cast<size_t>(first + row) * stride + chunk * 4;
        if (vector) {
            float4 value = staging.four(row, chunk);
            float4* four = reinterpret_cast<float4*>(to);
            if (accumulate) {
                const float4 before = *four;
                value = {value.x + before.x, value.y + before.y, value.z + before.z, value.w + before.w};
            }
            *four = value;
        } else {
#pragma unroll 1
            for (int i = 0; i < min(4, head_size - chunk * 4); ++i) {
                const float value = staging.chunk(row, chunk)[i];
                to[i] = accumulate ? to[i] + value : value;
            }
        }
    }
}

// From scores s and dw to ds, in dw's place, where queries are the rows.
template <int N>
__device__ __forceinline__ void score_gradients(
    const float (&s)[N][N], float (&dw)[N][N], const Problem<float>& p, const Exponent& exponent,
    const float2 (&of_query)[N], const Dropout& dropout, int head, int row, int col) {
    uint32_t keep = ~0u;
    float keep_scale = 1.0f;
    if (dropout.on) keep = draw<N>(p, dropout.step, head, row, col), keep_scale = p.keep_scale;
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float factor = keep >> (4 * i + j) & 1 ? keep_scale : 0.0f;
            const float w = exp2_approximate(fmaf(s[i][j], exponent.factor, -of_query[i].x));
            dw[i][j] = w * (dw[i][j] * factor - of_query[i].y);
        }
}

// attention_forward, see attention.cu
template <int D>
__device__ __forceinline__ void forward(float* out, float* lse, const Problem<float>& p) {
    constexpr int R = Tile<D>::R, N = Tile<D>::N;
    extern __shared__ float4 shared[];
    float* memory = reinterpret_cast<float*>(shared);
    const Tile<D> q_tile{memory}, k_tile{memory + R * D}, v_tile{memory + 2 * R * D};
    float* weights = memory + 3 * R * D;
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = (gridDim.y - 1 - blockIdx.y) * R, offset = p.keys - p.queries;
    const int x = threadIdx.x % 16, row = first + threadIdx.x / 16 * N;
    const int keys = p.causal ? min(p.keys, offset + min(first + R, p.queries)) : p.keys;
    const Matrix kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                          head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    const Dropout dropout(p);
    const Exponent exponent(p);

    float2 o[N][D / 32] = {};
    float highest[N], sum[N] = {};
#pragma unroll
    for (int i = 0; i < N; ++i) highest[i] = NEGATIVE_INFINITY;
    const Matrix q[1] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size)};
    load_tiles(q_tile, q, first, p.queries, p.head_size, p.vector);
#pragma unroll 1
    for (int tile = 0; tile < keys; tile += R) {
        __syncthreads();  // all warps have left the tile before
        load_tiles(k_tile, kv, tile, p.keys, p.head_size, p.vector);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float s[N][N] = {};
        multiply_transposed<D>(s, q_tile, k_tile, (p.head_size + 3) / 4);
        finish_scores<false>(s, p, exponent, b, h, row, tile + N * x);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float tile_highest = highest[i];
#pragma unroll
            for (int j = 0; j < N; ++j) tile_highest = fmaxf(tile_highest, s[i][j]);
            tile_highest = row_max(tile_highest);
            // Nothing seen yet: any finite shift leaves weights of 2^-infinity = 0.
            const float shift = tile_highest == NEGATIVE_INFINITY ? 0.0f : -tile_highest * exponent.factor;
            const float rescale = exp2_approximate(fmaf(highest[i], exponent.factor, shift));
            float tile_sum = 0.0f;
#pragma unroll
            for (int j = 0; j < N; ++j) {
                s[i][j] = exp2_approximate(fmaf(s[i][j], exponent.factor, shift));
                tile_sum += s[i][j];
            }
            highest[i] = tile_highest;
            sum[i] = fmaf(sum[i], rescale, tile_sum);
#pragma unroll
            for (int c = 0; c < D / 32; ++c) o[i][c] = {o[i][c].x * rescale, o[i][c].y * rescale};
        }
        if (dropout.on) {
            const uint32_t keep = draw<N>(p, dropout.step, head, row, tile + N * x);
#pragma unroll
            for (int i = 0; i < N; ++i)
#pragma unroll
                for (int j = 0; j < N; ++j) s[i][j] = keep >> (4 * i + j) & 1 ? s[i][j] : 0.0f;
        }
        multiply<D>(o, weights, s, v_tile, p.head_size);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float total = row_sum(sum[i]);
        if (x == 0 && row + i < p.queries) {
            lse[static_cast<size_t>(head) * p.queries + row + i] = fmaf(highest[i], exponent.factor, log2f(total));
        }
        const float inverse = total == 0.0f ? 0.0f : (dropout.on ? p.keep_scale : 1.0f) / total;
#pragma unroll
        for (int c = 0; c < D / 32; ++c) o[i][c] = {o[i][c].x * inverse, o[i][c].y * inverse};
    }
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    out += b * p.queries * out_row + static_cast<size_t>(h) * p.head_size;
    store_rows<D>(out, out_row, o, q_tile, first, p.queries, p.head_size, p.vector, false);
}

// attention_backward_queries, see attention_backward.cu
template <int D>
__device__ __forceinline__ void backward_queries(
    float* dq, size_t dq_batch, size_t dq_row, float2* stats, const float* dout, const float* out, const float* lse,
    int accumulate, const Problem<float>& p) {
    constexpr int R = Tile<D>::R, N = Tile<D>::N;
    extern __shared__ float4 shared[];
    float* memory = reinterpret_cast<float*>(shared);
    const Tile<D> q_tile{memory}, dout_tile{memory + R * D}, k_tile{memory + 2 * R * D}, v_tile{memory + 3 * R * D};
    float* weights = memory + 4 * R * D;
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = (gridDim.y - 1 - blockIdx.y) * R, offset = p.keys - p.queries;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16, row = first + y * N;
    const int keys = p.causal ? min(p.keys, offset + min(first + R, p.queries)) : p.keys;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const Matrix kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                          head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    const Dropout dropout(p);
    const Exponent exponent(p);

    const Matrix rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                            head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
    load_tiles(q_tile, rows, first, p.queries, p.head_size, p.vector);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    const Matrix outs = head_of(out, p.queries * out_row, out_row, b, h, p.head_size);
    float2 of_query[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const bool inside = row + i < p.queries;
        const float* out_of_query = outs.data + static_cast<size_t>(row + i) * out_row;
        float delta = 0.0f;
#pragma unroll 1
        for (int col = x; inside && col < p.head_size; col += 16) {
            delta = fmaf(dout_tile.chunk(N * y + i, col / 4)[col % 4], out_of_query[col], delta);
        }
        const float saved = inside ? lse[static_cast<size_t>(head) * p.queries + row + i] : 0.0f;
        of_query[i] = {finite_exponent(saved), row_sum(delta)};
        if (inside && x == 0) stats[head * stats_row(p.queries) + row + i] = of_query[i];
    }

    float2 acc[N][D / 32] = {};
#pragma unroll 1
    for (int tile = 0; tile < keys; tile += R) {
        __syncthreads();  // all warps have left the tile before
        load_tiles(k_tile, kv, tile, p.keys, p.head_size, p.vector);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float s[N][N] = {}, dw[N][N] = {};
        multiply_transposed<D>(s, q_tile, k_tile, (p.head_size + 3) / 4);
        multiply_transposed<D>(dw, dout_tile, v_tile, (p.head_size + 3) / 4);
        finish_scores<false>(s, p, exponent, b, h, row, tile + N * x);
        score_gradients<N>(s, dw, p, exponent, of_query, dropout, head, row, tile + N * x);
        multiply<D>(acc, weights, dw, k_tile, p.head_size);
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int c = 0; c < D / 32; ++c) acc[i][c] = {acc[i][c].x * p.scale, acc[i][c].y * p.scale};
    dq += b * dq_batch + static_cast<size_t>(h) * p.head_size;
    store_rows<D>(dq, dq_row, acc, q_tile, first, p.queries, p.head_size, p.vector, accumulate);
}

// attention_backward_keys, see attention_backward.cu
template <int D>
__device__ __forceinline__ void backward_keys(
    float* dk, size_t dk_batch, size_t dk_row, float* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const float* dout, int accumulate, const Problem<float>& p) {
    constexpr int R = Tile<D>::R, N = Tile<D>::N;
    extern __shared__ float4 shared[];
    float* memory = reinterpret_cast<float*>(shared);
    const Tile<D> k_tile{memory}, v_tile{memory + R * D}, q_tile{memory + 2 * R * D}, dout_tile{memory + 3 * R * D};
    float* weights = memory + 4 * R * D;
    float2* tile_stats = reinterpret_cast<float2*>(weights + R * R);
    const int head = blockIdx.x, b = head / p.heads, h = head % p.heads;
    const int first = blockIdx.y * R, offset = p.keys - p.queries;
    const int x = threadIdx.x % 16, row = first + threadIdx.x / 16 * N;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const Matrix kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                          head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
    const Matrix rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                            head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
    stats += head * stats_row(p.queries);
    const Dropout dropout(p);
    const Exponent exponent(p);

    float2 dk_acc[N][D / 32] = {}, dv_acc[N][D / 32] = {};
    load_tiles(k_tile, kv, first, p.keys, p.head_size, p.vector);
#pragma unroll 1
    for (int tile = p.causal ? max(0, first - offset) / R * R : 0; tile < p.queries; tile += R) {
        __syncthreads();  // all warps have left the tile before
        load_tiles(q_tile, rows, tile, p.queries, p.head_size, p.vector);
        if (threadIdx.x < R) {
            const int query = tile + threadIdx.x;
            tile_stats[threadIdx.x] = query < p.queries ? stats[query] : make_float2(0.0f, 0.0f);
        }
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        float s[N][N] = {}, dw[N][N] = {};
        multiply_transposed<D>(s, k_tile, q_tile, (p.head_size + 3) / 4);
        multiply_transposed<D>(dw, v_tile, dout_tile, (p.head_size + 3) / 4);
        finish_scores<true>(s, p, exponent, b, h, row, tile + N * x);
        uint32_t keep = ~0u;
        float keep_scale = 1.0f;
        if (dropout.on) keep = draw<N>(p, dropout.step, head, tile + N * x, row), keep_scale = p.keep_scale;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float2 of_query = tile_stats[N * x + j];
#pragma unroll
            for (int i = 0; i < N; ++i) {
                const float factor = keep >> (4 * j + i) & 1 ? keep_scale : 0.0f;
                const float w = exp2_approximate(fmaf(s[i][j], exponent.factor, -of_query.x));
                dw[i][j] = w * (dw[i][j] * factor - of_query.y);
                s[i][j] = w * factor;
            }
        }
        multiply<D>(dv_acc, weights, s, dout_tile, p.head_size);
        multiply<D>(dk_acc, weights, dw, q_tile, p.head_size);
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int c = 0; c < D / 32; ++c) dk_acc[i][c] = {dk_acc[i][c].x * p.scale, dk_acc[i][c].y * p.scale};
    dk += b * dk_batch + static_cast<size_t>(h) * p.head_size;
    dv += b * dv_batch + static_cast<size_t>(h) * p.head_size;
    store_rows<D>(dk, dk_row, dk_acc, k_tile, first, p.keys, p.head_size, p.vector, accumulate);
    store_rows<D>(dv, dv_row, dv_acc, v_tile, first, p.keys, p.head_size, p.vector, accumulate);
}

// attention_backward_bias, see attention_backward.cu; grid (ceil(Tk / 32), ceil(Tq / 32), NH), shared 4 * 32 * 512 bytes
__device__ __forceinline__ void backward_bias(
    float* dbias, const float2* stats, const float* dout, int accumulate, int batch, const Problem<float>& p) {
    constexpr int D = 128, R = Tile<D>::R, N = Tile<D>::N;
    extern __shared__ float4 shared[];
    float* memory = reinterpret_cast<float*>(shared);
    const Tile<D> q_tile{memory}, dout_tile{memory + R * D}, k_tile{memory + 2 * R * D}, v_tile{memory + 3 * R * D};
    const int h = blockIdx.z, tile = blockIdx.x * R, first = blockIdx.y * R;
    const int row = first + threadIdx.x / 16 * N, col = tile + threadIdx.x % 16 * N;
    const size_t out_row = static_cast<size_t>(p.heads) * p.head_size;
    const Dropout dropout(p);
    const Exponent exponent(p);
    const bool hidden = p.causal && tile > p.keys - p.queries + first + R - 1;

    float sum[N][N] = {};
#pragma unroll 1
    for (int b = hidden ? batch : 0; b < batch; ++b) {
        __syncthreads();  // all warps have left the sequence before
        const Matrix rows[2] = {head_of(p.q, p.q_batch, p.q_row, b, h, p.head_size),
                                head_of(dout, p.queries * out_row, out_row, b, h, p.head_size)};
        const Matrix kv[2] = {head_of(p.k, p.k_batch, p.k_row, b, h, p.head_size),
                              head_of(p.v, p.v_batch, p.v_row, b, h, p.head_size)};
        load_tiles(q_tile, rows, first, p.queries, p.head_size, p.vector);
        load_tiles(k_tile, kv, tile, p.keys, p.head_size, p.vector);
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        const int head = b * p.heads + h;
        float2 of_query[N];
#pragma unroll
        for (int i = 0; i < N; ++i) of_query[i] = stats[head * stats_row(p.queries) + min(row + i, p.queries - 1)];
        float s[N][N] = {}, dw[N][N] = {};
        multiply_transposed<D>(s, q_tile, k_tile, (p.head_size + 3) / 4);
        multiply_transposed<D>(dw, dout_tile, v_tile, (p.head_size + 3) / 4);
        finish_scores<false>(s, p, exponent, b, h, row, col);
        score_gradients<N>(s, dw, p, exponent, of_query, dropout, head, row, col);
#pragma unroll
        for (int i = 0; i < N; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) sum[i][j] += dw[i][j];
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j) {
            if (row + i < p.queries && col + j < p.keys) {
                float& to = dbias[(static_cast<size_t>(h) * p.queries + row + i) * p.keys + col + j];
                to = accumulate ? to + sum[i][j] : sum[i][j];
            }
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_forward_hs64_f32(
    float* out, float* lse, ATTENTION_PARAMETERS(float)) {
    forward<64>(out, lse, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_forward_hs128_f32(
    float* out, float* lse, ATTENTION_PARAMETERS(float)) {
    forward<128>(out, lse, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs64_f32(
    float* dq, size_t dq_batch, size_t dq_row, float2* stats, const float* dout, const float* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(float)) {
    backward_queries<64>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_queries_hs128_f32(
    float* dq, size_t dq_batch, size_t dq_row, float2* stats, const float* dout, const float* out, const float* lse,
    int accumulate, ATTENTION_PARAMETERS(float)) {
    backward_queries<128>(dq, dq_batch, dq_row, stats, dout, out, lse, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs64_f32(
    float* dk, size_t dk_batch, size_t dk_row, float* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const float* dout, int accumulate, ATTENTION_PARAMETERS(float)) {
    backward_keys<64>(dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_keys_hs128_f32(
    float* dk, size_t dk_batch, size_t dk_row, float* dv, size_t dv_batch, size_t dv_row, const float2* stats,
    const float* dout, int accumulate, ATTENTION_PARAMETERS(float)) {
    backward_keys<128>(dk, dk_batch, dk_row, dv, dv_batch, dv_row, stats, dout, accumulate, {ATTENTION_ARGUMENTS});
}
extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_backward_bias_f32(
    float* dbias, const float2* stats, const float* dout, int accumulate, int batch, ATTENTION_PARAMETERS(float)) {
    backward_bias(dbias, stats, dout, accumulate, batch, {ATTENTION_ARGUMENTS});
}
