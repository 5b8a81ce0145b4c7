// Tiles of 16-bit elements and their tensor-core products, for the attention kernels of 128 threads (four warps).
//
// A tile is ROWS rows of one head, padded with zeros to D = 64 or 128 columns, in shared memory as swizzled<2 * D> places
// it. Products run over the groups of 32 columns that the head has, so that a smaller head costs space, not time. Warps
// own 16 rows at a time; fragments are those of mma.cuh, with g = lane / 4 and t = lane % 4: element [n][2 * half + e] of
// an accumulator is row g + 8 * half, column 8 * n + 2 * t + e.

#pragma once

#include "attention.cuh"
#include "mma.cuh"

constexpr int THREADS = 128;
constexpr int TILE = 64;  // keys (in the dK, dV kernel: queries) that a step of a loop works on

__device__ __forceinline__ void store_shared_16(uint32_t address, uint16_t bits) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(address), "h"(bits) : "memory");
}

__device__ __forceinline__ void store_shared_32(uint32_t address, uint32_t bits) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(bits) : "memory");
}

__device__ __forceinline__ void store_shared_128(uint32_t address, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ uint16_t load_shared_16(uint32_t address) {
    uint16_t bits;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(bits) : "r"(address) : "memory");
    return bits;
}

__device__ __forceinline__ uint32_t load_shared_32(uint32_t address) {
    uint32_t bits;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(bits) : "r"(address) : "memory");
    return bits;
}

__device__ __forceinline__ uint4 load_shared_128(uint32_t address) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

// One 16-byte store; an assignment of a uint4 is sometimes compiled to four.
__device__ __forceinline__ void store_global_128(void* to, uint4 v) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

// Where the chunk 2 * pairs to the right of an ldmatrix lane's own (its chunk 0 or 1) lies, both as swizzled offsets.
template <int D>
__device__ __forceinline__ uint32_t chunks_right(uint32_t offset, int pairs) {
    static_assert(D % 64 == 0, "the lowest three bits of a row's chunk are swizzled");
    return (offset ^ (pairs % 4 * 32)) + pairs / 4 * 128;
}

// A (rows, head_size) matrix of one head; row r starts at data[r * stride].
template <typename T>
struct Matrix {
    const T* data;
    size_t stride;
};

template <typename T>
__device__ __forceinline__ Matrix<T> head_of(const T* data, size_t batch_stride, size_t stride, int b, int h, int head_size) {
    return {data + b * batch_stride + static_cast<size_t>(h) * head_size, stride};
}

// Starts loading rows first .. first + ROWS of each of COUNT matrices into tiles one after another; what lies outside
// (rows, head_size) becomes zero. Without `vector`, rows may start anywhere and are copied element by element, at once.
template <int ROWS, int D, typename T, int COUNT>
__device__ __forceinline__ void load_tiles(
    uint32_t tile, const Matrix<T> (&matrices)[COUNT], int first, int rows, int head_size, bool vector) {
    static_assert(COUNT <= 2, "the choice below is between two");
    constexpr int LANES = D / 8;  // threads on a row
    constexpr int STEP = THREADS / LANES;
    static_assert(STEP % 8 == 0, "the swizzle repeats every eight rows");
    static_assert(ROWS % STEP == 0, "whole steps");
#pragma unroll 1
    for (int i = 0; i < COUNT; ++i, tile += ROWS * D * 2) {
        const T* source = i == 0 ? matrices[0].data : matrices[COUNT - 1].data;
        const size_t stride = i == 0 ? matrices[0].stride : matrices[COUNT - 1].stride;
        if (vector) {
            const int chunk = threadIdx.x % LANES, row = threadIdx.x / LANES;
            const int inside = chunk * 8 < head_size ? rows - first - row : 0;  // rows to copy, from this thread's first on
            const T* from = source + static_cast<size_t>(first + row) * stride + chunk * 8;
            const uint32_t to = tile + swizzled<2 * D>(row, chunk);
#pragma unroll
            for (int r = 0; r < ROWS; r += STEP) {
                cp_async_16(to + r * 2 * D, r < inside ? from : source, r < inside ? 16 : 0);
                from += STEP * stride;
            }
        } else {
#pragma unroll 1
            for (int at = threadIdx.x; at < ROWS * D; at += THREADS) {
                const int row = at / D, col = at % D;
                uint16_t bits = 0;
                if (first + row < rows && col < head_size) {
                    bits = reinterpret_cast<const uint16_t*>(source)[static_cast<size_t>(first + row) * stride + col];
                }
                store_shared_16(tile + swizzled<2 * D>(row, col / 8) + col % 8 * 2, bits);
            }
        }
    }
}

// acc[m][n] += A B^T: rows 16 * m .. of A from `row` on, rows 8 * n .. of B, over the first 32 * groups columns.
template <typename T, int MT, int NT, int D>
__device__ __forceinline__ void multiply_transposed(
    float (&acc)[MT][NT][4], uint32_t a_tile, int row, uint32_t b_tile, int groups) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t a_lane = swizzled<2 * D>(rows_first_row(lane), rows_first_chunk(lane));
    const uint32_t b_lane = swizzled<2 * D>(chunks_first_row(lane), chunks_first_chunk(lane));
    a_tile += row * 2 * D;
#pragma unroll 1
    for (int group = 0; group < groups; ++group) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            uint32_t a[MT][4];
            const uint32_t a_from = a_tile + chunks_right<D>(a_lane, 2 * group + k);
            const uint32_t b_from = b_tile + chunks_right<D>(b_lane, 2 * group + k);
#pragma unroll
            for (int m = 0; m < MT; ++m) ldmatrix_x4(a[m], a_from + 16 * m * 2 * D);
#pragma unroll
            for (int n = 0; n < NT; n += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, b_from + 8 * n * 2 * D);
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma_m16n8k16<T>(acc[m][n], a[m], b[0], b[1]);
                    mma_m16n8k16<T>(acc[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }
}

// The accumulators of 16 columns, rounded to T, as an operand A of the next product.
template <typename T>
__device__ __forceinline__ void to_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack2<T>(left[0], left[1]);
    a[1] = pack2<T>(left[2], left[3]);
    a[2] = pack2<T>(right[0], right[1]);
    a[3] = pack2<T>(right[2], right[3]);
}

// acc[m][d] += P B over the first 32 * groups columns of B: P (16 * MT, 8 * NT) from accumulators, rounded to T; B the
// first 8 * NT rows of a tile.
template <typename T, int MT, int NT, int D>
__device__ __forceinline__ void multiply(
    float (&acc)[MT][D / 8][4], const float (&p)[MT][NT][4], uint32_t b_tile, int groups) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t b_lane = swizzled<2 * D>(rows_first_row(lane), rows_first_chunk(lane));
    uint32_t a[MT][NT / 2][4];
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int k = 0; k < NT / 2; ++k) to_operand<T>(a[m][k], p[m][2 * k], p[m][2 * k + 1]);
#pragma unroll
    for (int group = 0; group < D / 32; ++group) {
        if (group >= groups) break;
#pragma unroll
        for (int k = 0; k < NT / 2; ++k)
#pragma unroll
            for (int d = 4 * group; d < 4 * group + 4; d += 2) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, b_tile + chunks_right<D>(b_lane, d / 2) + 16 * k * 2 * D);
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma_m16n8k16<T>(acc[m][d], a[m][k], b[0], b[1]);
                    mma_m16n8k16<T>(acc[m][d + 1], a[m][k], b[2], b[3]);
                }
            }
    }
}

// A warp's access to rows first .. first + 16 * MT of `matrix` (rows, head_size), by way of staging: as many rows of a
// tile that no other warp uses any more. Every access of whole chunks fills whole 32-byte sectors.
template <bool STORE, int D, int MT, typename T>
__device__ __forceinline__ void copy_rows(
    T* matrix, size_t stride, uint32_t staging, int first, int rows, int head_size, bool vector) {
    constexpr int LANES = D / 8;
    const int lane = threadIdx.x % 32, chunk = lane % LANES;
    if (chunk * 8 >= head_size) return;
#pragma unroll 1
    for (int row = lane / LANES; row < 16 * MT && first + row < rows; row += 32 / LANES) {
        T* at = matrix + static_cast<size_t>(first + row) * stride + chunk * 8;
        const uint32_t staged = staging + swizzled<2 * D>(row, chunk);
        if (vector) {
            if (STORE) {
                store_global_128(at, load_shared_128(staged));
            } else {
                store_shared_128(staged, *reinterpret_cast<const uint4*>(at));
            }
        } else {
            uint16_t* bits = reinterpret_cast<uint16_t*>(at);
#pragma unroll 1
            for (int i = 0; i < min(8, head_size - chunk * 8); ++i) {
                if (STORE) {
                    bits[i] = load_shared_16(staged + 2 * i);
                } else {
                    store_shared_16(staged + 2 * i, bits[i]);
                }
            }
        }
    }
}

// Writes a warp's accumulators to rows first .. of `target` (rows, head_size), or adds them to what is there.
template <typename T, int MT, int D>
__device__ __forceinline__ void store_rows(
    T* target, size_t stride, const float (&acc)[MT][D / 8][4], uint32_t staging, int first, int rows, int head_size,
    bool vector, bool accumulate) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp();
    if (accumulate) {
        copy_rows<false, D, MT>(target, stride, staging, first, rows, head_size, vector);
        __syncwarp();
    }
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int d = 0; d < D / 8; ++d)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t to = staging + swizzled<2 * D>(16 * m + g + 8 * half, d) + 4 * t;
                float2 value = {acc[m][d][2 * half], acc[m][d][2 * half + 1]};
                if (accumulate) {
                    const float2 before = unpack2<T>(load_shared_32(to));
                    value = {value.x + before.x, value.y + before.y};
                }
                store_shared_32(to, pack2<T>(value.x, value.y));
            }
    __syncwarp();
    copy_rows<true, D, MT>(target, stride, staging, first, rows, head_size, vector);
}

// The bits of `visible` up to and including bit `last`.
__device__ __forceinline__ uint64_t up_to(uint64_t visible, int last) {
    return last < 0 ? 0 : last >= 63 ? visible : visible & ((2ull << last) - 1);
}

// The bits of `visible` from bit `first` on.
__device__ __forceinline__ uint64_t from(uint64_t visible, int first) {
    return first > 63 ? 0 : first <= 0 ? visible : visible & ~0ull << first;
}

// Hides (with -infinity) the scores of one accumulator row whose column's bit is not set; columns count from this lane's
// first one, 2 * t.
template <int NT>
__device__ __forceinline__ void hide(float (&s)[NT][4], int half, uint64_t seen) {
    const uint32_t seen_in[2] = {static_cast<uint32_t>(seen), static_cast<uint32_t>(seen >> 32)};
#pragma unroll
    for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float& score = s[n][2 * half + e];
            score = seen_in[n / 4] & 1u << (n % 4 * 8 + e) ? score : NEGATIVE_INFINITY;
        }
}

// Scores of queries row .. and keys first .. first + 64, where accumulators' rows are queries: scaled and with the bias
// where the exponent asks for it, -infinity where hidden.
template <typename T, int MT>
__device__ __forceinline__ void finish_scores(
    float (&s)[MT][8][4], const Problem<T>& p, const Exponent& exponent, uint64_t visible, int head, int row, int first) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    if (exponent.scaled_first) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int i = 0; i < 32; ++i) s[m][i / 4][i % 4] *= p.scale;
    }
    if (p.bias != nullptr) {
        // Past the last query or key, the last one's bias stands in: what it is added to is hidden or never stored.
        const float* bias = p.bias + static_cast<size_t>(head) * p.queries * p.keys;
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int key = min(first + i / 2 * 8 + 2 * t + i % 2, p.keys - 1);
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int query = min(row + 16 * m + g + 8 * half, p.queries - 1);
                    s[m][i / 2][2 * half + i % 2] += bias[static_cast<size_t>(query) * p.keys + key];
                }
            if (i % 4 == 3) __syncwarp();  // no more loads under way than registers hold
        }
    }
    const int offset = p.keys - p.queries - first;  // query i sees keys of this tile up to offset + i
    if (visible == ~0ull && !(p.causal && TILE - 1 > offset + row)) return;
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = row + 16 * m + g + 8 * half;
            const uint64_t seen = (p.causal ? up_to(visible, offset + query) : visible) >> 2 * t;
            hide(s[m], half, seen);
        }
}

// Which bit of a half's keep bits belongs to element [n][2 * half + e].
__device__ __forceinline__ constexpr int kept_bit(int n, int e) { return 4 * n + e; }

// Keep bits of 16 queries from `row` on and 64 keys from `first` on, where accumulators' rows are queries: bit
// kept_bit(n, e) of keep[half] for element [n][2 * half + e]. The two lanes that share words of four keys draw for one
// half of the rows each, and exchange.
template <typename T>
__device__ __forceinline__ void draw_rows(
    uint32_t (&keep)[2], const Problem<T>& p, uint32_t step, int head, int row, int first) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t drawn = 0;
#pragma unroll 1
    for (int n = 0; n < 8; ++n) {
        drawn |= keep_bits(p, step, head, row + g + t % 2 * 8, first / 4 + 2 * n + t / 2) << 4 * n;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        keep[half] = __shfl_sync(FULL_MASK, drawn, (lane & ~1) | half) >> 2 * (t % 2);
    }
}
