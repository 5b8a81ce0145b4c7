// matmul_any_{f32,f16,bf16}: out[b] = epilogue(lhs[b] rhs[b]) for any strides and alignments; f32 arithmetic.
//   The guarded path: what the tiled kernels' 16-byte copies cannot read comes here (odd row lengths, lhs and rhs both transposed).
// shapes   as matmul_f32.cu; lhs (M, K) and rhs (K, N) with any row and column strides
// traffic  a tile reads K (64 + 64) elements, one at a time, neighbours by neighbouring threads where a stride is 1
// launch   grid (tiles, splits, batches), block 256, static shared 16 KB
// limits   none on sizes or strides; out's columns are adjacent
// order    along K, one product at a time by one thread per element; splits are summed in order by matmul_split_sum
// source   definition

#include "matmul_epilogue.cuh"

constexpr int BM = 64, BN = 64, BK = 16, THREADS = 256;
constexpr int TM = 4, TN = 4;                  // sums of a thread
constexpr int LINE = BM + 4;                   // floats between K-lines of a tile: 16-byte aligned, and off the 32-bank period
constexpr int PER_THREAD = BM * BK / THREADS;  // elements of each operand that a thread brings
static_assert(BM == BN, "both operands' tiles have one shape");
static_assert(BM / TM * (BN / TN) == THREADS, "a thread for every 4 x 4 sums");
static_assert(2 * BK * LINE <= BM * BN, "the staged tile is the larger use of shared memory");

// One operand. A thread brings PER_THREAD elements of each tile, `step` apart in memory: neighbouring threads bring neighbours along
// the dimension whose stride is 1, be it K or the other one.
template <typename T>
struct AnyOperand {
    const T* from;         // this thread's first element of the next tile
    size_t step, advance;  // elements to its next one, and to the next tile
    int along, k;          // where its first element is: in M or N, in K
    int along_step, k_step, along_end, k_end;
    int tile_along, tile_k;  // the same within the tile

    __device__ __forceinline__ AnyOperand(
        const T* base, size_t along_stride, size_t k_stride, int start, int along_end, int k_begin, int k_end)
        : along_end(along_end), k_end(k_end) {
        const bool k_contiguous = k_stride == 1;
        tile_along = k_contiguous ? threadIdx.x / BK : threadIdx.x % BM;
        tile_k = k_contiguous ? threadIdx.x % BK : threadIdx.x / BM;
        along_step = k_contiguous ? THREADS / BK : 0;
        k_step = k_contiguous ? 0 : THREADS / BM;
        along = start + tile_along, k = k_begin + tile_k;
        from = base + along * along_stride + k * k_stride;
        step = along_step * along_stride + k_step * k_stride;
        advance = BK * k_stride;
    }

    __device__ __forceinline__ void fetch(float (&values)[PER_THREAD]) {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            const bool inside = along + i * along_step < along_end && k + i * k_step < k_end;
            values[i] = inside ? to_f32(from[i * step]) : 0.0f;
        }
        from += advance, k += BK;
    }

    __device__ __forceinline__ void put(float* tile, const float (&values)[PER_THREAD]) const {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) tile[(tile_k + i * k_step) * LINE + tile_along + i * along_step] = values[i];
    }
};

template <typename T>
__device__ __forceinline__ void matmul_any(const Problem p) {
    __shared__ __align__(16) float smem[BM * BN];
    float* const lhs_tile = smem;
    float* const rhs_tile = smem + BK * LINE;
    const Work work = work_of_block<BM, BN>(p);
    AnyOperand<T> lhs(
        static_cast<const T*>(p.lhs) + work.batch * p.lhs_batch, p.lhs_row, p.lhs_col, work.row, p.m, work.k_begin, work.k_end);
    AnyOperand<T> rhs(
        static_cast<const T*>(p.rhs) + work.batch * p.rhs_batch, p.rhs_col, p.rhs_row, work.col, p.n, work.k_begin, work.k_end);
    const int row = threadIdx.x / (BN / TN) * TM, col = threadIdx.x % (BN / TN) * TN;

    float acc[TM][TN] = {}, lhs_next[PER_THREAD], rhs_next[PER_THREAD];
    lhs.fetch(lhs_next);
    rhs.fetch(rhs_next);
    for (int k = work.k_begin; k < work.k_end; k += BK) {
        __syncthreads();  // all have read the tile before
        lhs.put(lhs_tile, lhs_next);
        rhs.put(rhs_tile, rhs_next);
        __syncthreads();
        lhs.fetch(lhs_next);
        rhs.fetch(rhs_next);
#pragma unroll 4
        for (int q = 0; q < BK; q++) {
            const float4 a = *reinterpret_cast<const float4*>(lhs_tile + q * LINE + row);
            const float4 b = *reinterpret_cast<const float4*>(rhs_tile + q * LINE + col);
            const float as[TM] = {a.x, a.y, a.z, a.w}, bs[TN] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) acc[i][j] = fmaf(as[i], bs[j], acc[i][j]);
        }
    }
    __syncthreads();

    char* const stage = reinterpret_cast<char*>(smem);
#pragma unroll
    for (int i = 0; i < TM; i++) {
        staged_at<BN, float4>(stage, row + i, col) = make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    }
    __syncthreads();
    finish_tile<T, FULL, BM, BN, THREADS>(p, work, stage);
}

extern "C" __global__ void __launch_bounds__(256) matmul_any_f32(MATMUL_PARAMETERS) { matmul_any<float>(MATMUL_PROBLEM); }
extern "C" __global__ void __launch_bounds__(256) matmul_any_f16(MATMUL_PARAMETERS) { matmul_any<f16>(MATMUL_PROBLEM); }
extern "C" __global__ void __launch_bounds__(256) matmul_any_bf16(MATMUL_PARAMETERS) { matmul_any<bf16>(MATMUL_PROBLEM); }
