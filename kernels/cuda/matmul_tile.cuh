// What the matmul kernels share: the problem they are given, which tile a block works on, and how tiles of the operands
// come into shared memory.
//
// Names: out (M, N) = lhs (M, K) rhs (K, N); a block computes BM x BN elements of out in steps of BK along K. An operand is
// K_CONTIGUOUS when neighbours along K are neighbours in memory: lhs stored (M, K), rhs stored (N, K). It is K_STRIDED when
// neighbours along M or N are: lhs stored (K, M), rhs stored (K, N).

#pragma once

#include "common.cuh"
#include "mma.cuh"

// One batch of equal products. Strides in elements: between neighbours along a dimension (row, col), between batches (batch).
struct Problem {
    void* out;             // (M, N), columns adjacent; T or f32
    float* partials;       // (splits, batches, M, N), or null: then the result goes to out, through the epilogue
    const void* lhs;       // (M, K) T
    const void* rhs;       // (K, N) T
    const void* bias;      // (N) T, or null
    const void* residual;  // laid out as out, of its type, or null
    void* pre;             // the same: gelu writes its argument here, gelu's backward reads it; else null
    size_t out_row, out_batch;
    size_t lhs_row, lhs_col, lhs_batch;
    size_t rhs_row, rhs_col, rhs_batch;
    int m, n, k;
    int k_per_split;  // multiple of BK
    int raster;       // rows of tiles in a group, see work_of_block
    unsigned flags;   // EPILOGUE_ bits
};

// The parameter list of every matmul entry, and the Problem made of it. Pointers and scalars only, so that the launcher can
// compare what it passes with the entry's signature.
#define MATMUL_PARAMETERS                                                                                       \
    void *out, float *partials, const void *lhs, const void *rhs, const void *bias, const void *residual,       \
        void *pre, size_t out_row, size_t out_batch, size_t lhs_row, size_t lhs_col, size_t lhs_batch,          \
        size_t rhs_row, size_t rhs_col, size_t rhs_batch, int m, int n, int k, int k_per_split, int raster,     \
        unsigned flags
#define MATMUL_PROBLEM                                                                                          \
    Problem {                                                                                                   \
        out, partials, lhs, rhs, bias, residual, pre, out_row, out_batch, lhs_row, lhs_col, lhs_batch, rhs_row, \
            rhs_col, rhs_batch, m, n, k, k_per_split, raster, flags                                             \
    }

constexpr bool K_CONTIGUOUS = true;
constexpr bool K_STRIDED = false;

// What a block works on.
struct Work {
    int row, col;           // first element of the tile in out
    int k_begin, k_end;     // this split's part of K
    int split;              // blockIdx.y
    size_t batch, batches;  // blockIdx.z, gridDim.z
};

// Blocks are numbered along x in groups of `raster` rows of tiles, column by column within a group: blocks that run at the
// same time then share rows of lhs and columns of rhs, which stay in L2 (about sqrt(blocks) of each instead of all of one).
template <int BM, int BN>
__device__ __forceinline__ Work work_of_block(const Problem& p) {
    const int tile_rows = (p.m + BM - 1) / BM, tile_cols = (p.n + BN - 1) / BN;
    const int group_tiles = p.raster * tile_cols;
    const int group = blockIdx.x / group_tiles, within = blockIdx.x % group_tiles;
    const int first_row = group * p.raster;
    const int rows = min(tile_rows - first_row, p.raster);
    Work work;
    work.row = (first_row + within % rows) * BM;
    work.col = within / rows * BN;
    work.split = blockIdx.y;
    work.k_begin = min(work.split * p.k_per_split, p.k);
    work.k_end = work.k_begin + min(p.k - work.k_begin, p.k_per_split);
    work.batch = blockIdx.z;
    work.batches = gridDim.z;
    return work;
}

// A BK-deep tile of an operand that is EXTENT long in M or N, as it lies in shared memory: LINES lines of LINE_BYTES, a
// line being contiguous in global memory as well. THREADS threads copy it, 16 bytes at a time.
template <typename T, bool CONTIGUOUS_K, int EXTENT, int BK, int THREADS, bool TENSOR>
struct OperandTile {
    static constexpr int LINES = CONTIGUOUS_K ? EXTENT : BK;
    static constexpr int LINE_BYTES = (CONTIGUOUS_K ? BK : EXTENT) * sizeof(T);
    static constexpr int BYTES = LINES * LINE_BYTES;
    static constexpr int PER_CHUNK = 16 / sizeof(T);
    static constexpr int CHUNKS = LINE_BYTES / 16;  // per line
    static constexpr int LINES_PER_PASS = THREADS / CHUNKS;
    static constexpr int PASSES = LINES / LINES_PER_PASS;
    static_assert(THREADS % CHUNKS == 0, "a thread copies the same chunk of every line it copies");
    static_assert(LINES % LINES_PER_PASS == 0, "every thread copies as many chunks as every other");
    static_assert(LINES_PER_PASS % 8 == 0, "lines of a pass are swizzled as those of the pass before");

    // Byte offset of a chunk in the tile. K-strided f32 is read otherwise than `swizzled` serves: on tensor cores (tf32) four lines of
    // 32 bytes at once, told apart by the line's low bits in steps of two chunks; elsewhere one line at a time, as it lies.
    static __host__ __device__ constexpr uint32_t offset(uint32_t line, uint32_t chunk) {
        if constexpr (CONTIGUOUS_K || sizeof(T) == 2) return swizzled<LINE_BYTES>(line, chunk);
        else return line * LINE_BYTES + ((TENSOR ? chunk ^ (line % 4 * 2) : chunk) * 16);
    }

    const char* next;  // this thread's first chunk of the tile that is loaded next
    size_t advance;    // bytes from a tile to the next one
    size_t pass_step;  // bytes from one pass to the next
    uint32_t place;    // byte offset of this thread's first chunk in a tile
    int room;          // elements left in M or N from the tile's first on

    // `start` is the tile's first index in M or N, `extent` that dimension's size, `k` the first tile's in K.
    __device__ __forceinline__ OperandTile(const T* base, size_t stride, int start, int extent, int k) {
        const int line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, along = chunk * PER_CHUNK;
        const T* first;
        if constexpr (CONTIGUOUS_K) {
            first = base + (size_t)(start + line) * stride + k + along;
        } else {
            first = base + (size_t)(k + line) * stride + start + along;
        }
        next = reinterpret_cast<const char*>(first);
        advance = (CONTIGUOUS_K ? BK : BK * stride) * sizeof(T);
        pass_step = LINES_PER_PASS * stride * sizeof(T);
        place = offset(line, chunk);
        room = extent - start;
    }

    // Starts copying the next tile, of which `k_left` is left in K, to `tile`; what lies outside becomes zero.
    __device__ __forceinline__ void load(uint32_t tile, int k_left) {
        const char* from = next;
        const uint32_t to = tile + place;
        if (room >= EXTENT && k_left >= BK) {
            // The same for all threads of the block, and true but at the edges: no guards.
#pragma unroll
            for (int pass = 0; pass < PASSES; pass++, from += pass_step) {
                cp_async_16(to + pass * LINES_PER_PASS * LINE_BYTES, from);
            }
        } else {
            const int line = threadIdx.x / CHUNKS, along = threadIdx.x % CHUNKS * PER_CHUNK;
            const int left = (CONTIGUOUS_K ? k_left : room) - along;
            const int lines = (CONTIGUOUS_K ? room : k_left) - line;
            const int bytes = min(max(left, 0), PER_CHUNK) * (int)sizeof(T);
#pragma unroll
            for (int pass = 0; pass < PASSES; pass++, from += pass_step) {
                cp_async_16(to + pass * LINES_PER_PASS * LINE_BYTES, from, pass * LINES_PER_PASS < lines ? bytes : 0);
            }
        }
        next += advance;
    }
};

// The two operands of a block's work, and the ring of tiles they come through.
template <typename T, bool LHS_K, bool RHS_K, typename S>
struct Ring {
    using L = OperandTile<T, LHS_K, S::BM, S::BK, S::THREADS, S::TENSOR>;
    using R = OperandTile<T, RHS_K, S::BN, S::BK, S::THREADS, S::TENSOR>;
    static constexpr int STAGE_BYTES = L::BYTES + R::BYTES;
    static_assert(S::STAGES >= 3, "one tile is read, one is awaited, at least one is under way");
    static_assert(S::BM * S::BN * 4 <= S::STAGES * STAGE_BYTES, "the epilogue stages the whole tile as f32 in the ring");

    L lhs;
    R rhs;
    uint32_t base;
    int k_left;  // of K, from the tile that is loaded next on

    __device__ __forceinline__ Ring(const Problem& p, const Work& work, const void* smem)
        : lhs(static_cast<const T*>(p.lhs) + work.batch * p.lhs_batch, LHS_K ? p.lhs_row : p.lhs_col, work.row, p.m, work.k_begin),
          rhs(static_cast<const T*>(p.rhs) + work.batch * p.rhs_batch, RHS_K ? p.rhs_col : p.rhs_row, work.col, p.n, work.k_begin),
          base(shared_address(smem)), k_left(work.k_end - work.k_begin) {}

    __device__ __forceinline__ uint32_t lhs_tile(int stage) const { return base + stage * STAGE_BYTES; }
    __device__ __forceinline__ uint32_t rhs_tile(int stage) const { return base + stage * STAGE_BYTES + L::BYTES; }

    // Starts the copies of the next tile of each operand as one group; the group is empty past the end, so that waits count alike.
    __device__ __forceinline__ void load(int stage) {
        if (k_left > 0) {
            lhs.load(lhs_tile(stage), k_left);
            rhs.load(rhs_tile(stage), k_left);
        }
        k_left -= S::BK;
        cp_async_commit();
    }

    // Whether one of the tiles that were started has yet to be multiplied, asked before the next `load`: told by `k_left` alone,
    // because a counter beside it would take a register that matmul_f32 does not have.
    __device__ __forceinline__ bool more() const { return k_left > (1 - S::STAGES) * S::BK; }

    // Starts all tiles but one and waits for the first.
    __device__ __forceinline__ void fill() {
#pragma unroll 1
        for (int stage = 0; stage < S::STAGES - 1; stage++) load(stage);
        await_next();
    }

    // Until the oldest tile under way is there for every thread; also says that all are done with the tile before it.
    __device__ __forceinline__ void await_next() const {
        cp_async_wait<S::STAGES - 2>();
        __syncthreads();
    }

    // Until nothing is under way and nobody reads: the ring may be used for something else.
    __device__ __forceinline__ void drain() const {
        cp_async_wait<0>();
        __syncthreads();
    }

    static __device__ __forceinline__ int after(int stage) { return stage + 1 == S::STAGES ? 0 : stage + 1; }
};
