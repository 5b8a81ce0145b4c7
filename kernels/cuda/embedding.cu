// embedding.cu: rows looked up by id, and their deterministic scatter-add: embeddings, and the gathering of rows.
//
// The backward sorts the ids (stable, least significant digit first), so that all rows of an id lie together in their order, and adds
// them in pieces of a fixed length. No atomics: the sums' order is a function of the ids alone.

#include "common.cuh"
#include "ids.cuh"

// embedding_forward: out[n, :] = weight[ids[n], :]; an id outside the table gives NaN and is reported (ids.cuh)
// shapes   out (N, C), weight (V, C) of elements of `size` bytes; ids (N) i32; report one u64
// traffic  reads and writes N*C elements
// launch   one-dimensional, 256 threads; a row is `chunks` chunks of 16 bytes when rows and arrays are 16-byte aligned, else
//          `chunks` elements
// limits   any size; moves bits, so one kernel serves all dtypes of its size
// order    no sums
template <typename T>
__device__ __forceinline__ void embedding_forward(T* __restrict__ out, const int32_t* __restrict__ ids,
                                                  const T* __restrict__ weight, unsigned long long* report,
                                                  size_t total, uint32_t chunks, uint32_t vocab, bool wide) {
    for (size_t i = thread_index(); i < total; i += thread_count()) {
        const size_t n = i / chunks, c = i - n * chunks;
        const uint32_t id = ids[n];
        const size_t from = size_t(id) * chunks + c;
        if (id >= vocab && c == 0) report_id(report, n, id);
        if (wide) {
            // All bits set is NaN in every float dtype.
            reinterpret_cast<uint4*>(out)[i] =
                id < vocab ? __ldg(reinterpret_cast<const uint4*>(weight) + from) : make_uint4(~0u, ~0u, ~0u, ~0u);
        } else {
            out[i] = id < vocab ? weight[from] : T(~T(0));
        }
    }
}

// Ids a block sorts at a time: 8 warps of 8 rounds of 32.
constexpr int TILE = 2048;
constexpr int ROUNDS = TILE / 256;
constexpr int DIGITS = 256;

// The key of an id: itself, or V when it is outside the table, behind all others.
__device__ __forceinline__ uint32_t key_of(int32_t id, uint32_t vocab) { return uint32_t(id) < vocab ? id : vocab; }

// The lanes whose item has this lane's digit; lanes without an item (valid = false) match nobody.
__device__ __forceinline__ unsigned same_digit(uint32_t digit, bool valid) {
    unsigned peers = __ballot_sync(FULL_MASK, valid);
#pragma unroll
    for (int bit = 0; bit < 8; ++bit) {
        const bool set = digit >> bit & 1;
        const unsigned having = __ballot_sync(FULL_MASK, set);
        peers &= set ? having : ~having;
    }
    return valid ? peers : 0;
}

// Counts the digits of a warp's part of a tile in counts (8 warps, 256 digits). One lane of each digit adds for all: no atomics.
__device__ __forceinline__ void count_digits(uint32_t (&counts)[8][DIGITS], const int32_t* __restrict__ ids,
                                             uint32_t count, uint32_t vocab, uint32_t shift) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int d = lane; d < DIGITS; d += WARP) counts[warp][d] = 0;
    __syncwarp();
    for (int round = 0; round < ROUNDS; ++round) {
        const uint32_t n = blockIdx.x * TILE + (warp * ROUNDS + round) * WARP + lane;
        const bool valid = n < count;
        const uint32_t digit = valid ? key_of(ids[n], vocab) >> shift & (DIGITS - 1) : 0;
        const unsigned peers = same_digit(digit, valid);
        if (valid && lane == __ffs(peers) - 1) counts[warp][digit] += __popc(peers);
        __syncwarp();
    }
    __syncthreads();
}

// embedding_sort_count: histogram[d, tile] = how often digit d occurs in the tile
// shapes   ids (N) i32; histogram (256, tiles) u32
// traffic  reads N ids
// launch   grid = tiles = ceil(N/2048), 256 threads, 8 KiB shared
// limits   N < 2^32 - 2048, V < 2^32
// order    integers: any
extern "C" __global__ void __launch_bounds__(256)
    embedding_sort_count(uint32_t* histogram, const int32_t* ids, uint32_t count, uint32_t vocab, uint32_t shift) {
    __shared__ uint32_t counts[8][DIGITS];
    count_digits(counts, ids, count, vocab, shift);
    uint32_t sum = 0;
    for (int warp = 0; warp < 8; ++warp) sum += counts[warp][threadIdx.x];
    histogram[size_t(threadIdx.x) * gridDim.x + blockIdx.x] = sum;
}

// embedding_sort_scan: replaces each count by the sum of those before it
// shapes   histogram (entries) u32
// launch   one block of 1024 threads
// limits   any size
// order    integers: any
extern "C" __global__ void __launch_bounds__(1024) embedding_sort_scan(uint32_t* histogram, uint32_t entries) {
    __shared__ uint32_t warp_totals[WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    uint32_t carry = 0;
    for (uint32_t base = 0; base < entries; base += blockDim.x) {
        const uint32_t i = base + threadIdx.x;
        const uint32_t value = i < entries ? histogram[i] : 0;
        uint32_t scan = value;
#pragma unroll
        for (int offset = 1; offset < WARP; offset *= 2) {
            const uint32_t below = __shfl_up_sync(FULL_MASK, scan, offset);
            if (lane >= offset) scan += below;
        }
        if (lane == WARP - 1) warp_totals[warp] = scan;
        __syncthreads();
        uint32_t totals = warp_totals[lane];
#pragma unroll
        for (int offset = 1; offset < WARP; offset *= 2) {
            const uint32_t below = __shfl_up_sync(FULL_MASK, totals, offset);
            if (lane >= offset) totals += below;
        }
        const uint32_t before = __shfl_sync(FULL_MASK, totals, warp == 0 ? 0 : warp - 1);
        if (i < entries) histogram[i] = carry + (warp == 0 ? 0 : before) + scan - value;
        carry += __shfl_sync(FULL_MASK, totals, WARP - 1);
        __syncthreads();
    }
}

// embedding_sort_scatter: moves ids and their positions to where the digit puts them, those of one digit in their order
// shapes   out_ids, out_positions, ids, positions (N); positions null for 0, 1, 2, ...; starts (256, tiles) u32 from sort_scan
// traffic  reads and writes 2 N words
// launch, limits as embedding_sort_count
// order    integers: any
extern "C" __global__ void __launch_bounds__(256)
    embedding_sort_scatter(int32_t* out_ids, uint32_t* out_positions, const int32_t* ids, const uint32_t* positions,
                           const uint32_t* starts, uint32_t count, uint32_t vocab, uint32_t shift) {
    __shared__ uint32_t places[8][DIGITS];
    count_digits(places, ids, count, vocab, shift);
    uint32_t place = starts[size_t(threadIdx.x) * gridDim.x + blockIdx.x];
    for (int warp = 0; warp < 8; ++warp) {
        const uint32_t here = places[warp][threadIdx.x];
        places[warp][threadIdx.x] = place;
        place += here;
    }
    __syncthreads();
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int round = 0; round < ROUNDS; ++round) {
        const uint32_t n = blockIdx.x * TILE + (warp * ROUNDS + round) * WARP + lane;
        const bool valid = n < count;
        const uint32_t key = valid ? key_of(ids[n], vocab) : 0;
        const uint32_t digit = key >> shift & (DIGITS - 1);
        const unsigned peers = same_digit(digit, valid);
        const uint32_t first = valid ? places[warp][digit] : 0;
        __syncwarp();
        if (valid) {
            const uint32_t to = first + __popc(peers & ((1u << lane) - 1));
            out_ids[to] = key;
            out_positions[to] = positions ? positions[n] : n;
            if (lane == __ffs(peers) - 1) places[warp][digit] = first + __popc(peers);
        }
        __syncwarp();
    }
}

// Sorted entries that a block adds up.
constexpr int PIECE = 64;

// `WIDTH` neighbouring columns of a row: four in one access, or one.
template <typename T, int WIDTH> struct Columns {
    __device__ __forceinline__ static float4 load(const T* p) {
        if constexpr (WIDTH == 4) {
            return Quad<T>::load(p);
        } else {
            return make_float4(to_f32(*p), 0.0f, 0.0f, 0.0f);
        }
    }
    __device__ __forceinline__ static void store(T* p, float4 x) {
        if constexpr (WIDTH == 4) {
            Quad<T>::store(p, x);
        } else {
            *p = from_f32<T>(x.x);
        }
    }
};

__device__ __forceinline__ float4 add(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// embedding_backward: dweight[id, :] += the rows of dout at the positions of id, in order, where id's run of the sorted ids lies within
//   one piece; the sums of runs that cross pieces go to `crossing`, which embedding_backward_crossing adds up
// shapes   dweight (V, C) of dtype G; dout (N, C) of dtype E; ids, positions (N) sorted; crossing (pieces, 2, C) f32: a piece's first run,
//          when it came from the piece before, and its last run, when it began here and goes on
// traffic  reads N*C elements of dout, reads and writes the touched rows of dweight
// launch   grid (pieces = ceil(N/64), ceil(C/(width*threads))), a column group a thread; `width` 4 when C is a multiple of it and the
//          arrays are aligned, else 1
// limits   ids outside the table have key V, and their rows go nowhere
// order    the rows of a run in order
template <typename G, typename E, int WIDTH>
__device__ __forceinline__ void add_runs(G* __restrict__ dweight, float* __restrict__ crossing,
                                         const E* __restrict__ dout, const int32_t* ids, const uint32_t* positions,
                                         int len, bool from_before, bool goes_on, uint32_t cols, uint32_t vocab) {
    const uint32_t c = (blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
    if (c >= cols) return;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    int run = 0;
    for (int k = 0; k < len; ++k) {
        sum = add(sum, Columns<E, WIDTH>::load(dout + size_t(positions[k]) * cols + c));
        if (k + 1 < len && ids[k + 1] == ids[k]) continue;
        const bool first = run == 0 && from_before, last = k + 1 == len && goes_on;
        if (first || last) {
            Columns<float, WIDTH>::store(crossing + (size_t(blockIdx.x) * 2 + !first) * cols + c, sum);
        } else if (uint32_t(ids[k]) < vocab) {
            G* target = dweight + size_t(ids[k]) * cols + c;
            Columns<G, WIDTH>::store(target, add(Columns<G, WIDTH>::load(target), sum));
        }
        sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        run = k + 1;
    }
}

template <typename G, typename E>
__device__ __forceinline__ void embedding_backward(G* dweight, float* crossing, const E* dout, const int32_t* ids,
                                                   const uint32_t* positions, uint32_t count, uint32_t cols,
                                                   uint32_t vocab, uint32_t width) {
    __shared__ int32_t piece_ids[PIECE];
    __shared__ uint32_t piece_positions[PIECE];
    const uint32_t first = blockIdx.x * PIECE;
    const int len = min(uint32_t(PIECE), count - first);
    for (int k = threadIdx.x; k < len; k += blockDim.x) {
        piece_ids[k] = ids[first + k];
        piece_positions[k] = positions[first + k];
    }
    __syncthreads();
    const bool from_before = first > 0 && ids[first - 1] == piece_ids[0];
    const bool goes_on = first + len < count && ids[first + len] == piece_ids[len - 1];
    if (width == 4) {
        add_runs<G, E, 4>(dweight, crossing, dout, piece_ids, piece_positions, len, from_before, goes_on, cols, vocab);
    } else {
        add_runs<G, E, 1>(dweight, crossing, dout, piece_ids, piece_positions, len, from_before, goes_on, cols, vocab);
    }
}

// embedding_backward_crossing: dweight[id, :] += the pieces' sums of a run that crosses pieces, in order; a block for the piece it begins in
// shapes, launch, limits as embedding_backward
// traffic  reads the crossing sums once
// order    pieces in order
template <typename G, int WIDTH>
__device__ __forceinline__ void add_crossing(G* __restrict__ dweight, const float* __restrict__ crossing,
                                             const int32_t* __restrict__ ids, uint32_t count, uint32_t cols,
                                             uint32_t vocab) {
    const uint32_t c = (blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
    const size_t first = size_t(blockIdx.x) * PIECE, next = first + PIECE;
    if (c >= cols || next >= count) return;
    const int32_t id = ids[next - 1];
    const bool begins_here = ids[first] != id || first == 0 || ids[first - 1] != id;
    if (ids[next] != id || !begins_here || uint32_t(id) >= vocab) return;
    float4 sum = Columns<float, WIDTH>::load(crossing + (size_t(blockIdx.x) * 2 + 1) * cols + c);
    for (size_t piece = blockIdx.x + 1; piece * PIECE < count && ids[piece * PIECE] == id; ++piece) {
        sum = add(sum, Columns<float, WIDTH>::load(crossing + piece * 2 * cols + c));
    }
    G* target = dweight + size_t(id) * cols + c;
    Columns<G, WIDTH>::store(target, add(Columns<G, WIDTH>::load(target), sum));
}

template <typename G>
__device__ __forceinline__ void embedding_backward_crossing(G* dweight, const float* crossing, const int32_t* ids,
                                                            uint32_t count, uint32_t cols, uint32_t vocab,
                                                            uint32_t width) {
    if (width == 4) {
        add_crossing<G, 4>(dweight, crossing, ids, count, cols, vocab);
    } else {
        add_crossing<G, 1>(dweight, crossing, ids, count, cols, vocab);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_forward_b16(uint16_t* out, const int32_t* ids, const uint16_t* weight, unsigned long long* report,
                          uint64_t total, uint32_t chunks, uint32_t vocab, uint32_t wide) {
    embedding_forward(out, ids, weight, report, total, chunks, vocab, wide);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_forward_b32(uint32_t* out, const int32_t* ids, const uint32_t* weight, unsigned long long* report,
                          uint64_t total, uint32_t chunks, uint32_t vocab, uint32_t wide) {
    embedding_forward(out, ids, weight, report, total, chunks, vocab, wide);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_f32_f32(float* dweight, float* crossing, const float* dout, const int32_t* ids,
                             const uint32_t* positions, uint32_t count, uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward(dweight, crossing, dout, ids, positions, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_f32_f16(float* dweight, float* crossing, const f16* dout, const int32_t* ids,
                             const uint32_t* positions, uint32_t count, uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward(dweight, crossing, dout, ids, positions, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_f32_bf16(float* dweight, float* crossing, const bf16* dout, const int32_t* ids,
                             const uint32_t* positions, uint32_t count, uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward(dweight, crossing, dout, ids, positions, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_f16_f16(f16* dweight, float* crossing, const f16* dout, const int32_t* ids,
                             const uint32_t* positions, uint32_t count, uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward(dweight, crossing, dout, ids, positions, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_bf16_bf16(bf16* dweight, float* crossing, const bf16* dout, const int32_t* ids,
                             const uint32_t* positions, uint32_t count, uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward(dweight, crossing, dout, ids, positions, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_crossing_f32(float* dweight, const float* crossing, const int32_t* ids, uint32_t count,
                                  uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward_crossing(dweight, crossing, ids, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_crossing_f16(f16* dweight, const float* crossing, const int32_t* ids, uint32_t count,
                                  uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward_crossing(dweight, crossing, ids, count, cols, vocab, width);
}

extern "C" __global__ void __launch_bounds__(256)
    embedding_backward_crossing_bf16(bf16* dweight, const float* crossing, const int32_t* ids, uint32_t count,
                                  uint32_t cols, uint32_t vocab, uint32_t width) {
    embedding_backward_crossing(dweight, crossing, ids, count, cols, vocab, width);
}
