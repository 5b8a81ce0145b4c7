// Kernels of sm_90a: TMA, mbarriers, wgmma, clusters. Compiled with compute_90a; see compile.sh.
#include <cstdint>
#include <cuda_bf16.h>

struct alignas(64) Map { char bytes[128]; };  // a CUtensorMap

__device__ inline uint32_t smem(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ inline void init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem(bar)), "r"(count) : "memory");
}

__device__ inline void expect(uint64_t* bar, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem(bar)), "r"(bytes) : "memory");
}

__device__ inline void arrive(uint64_t* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem(bar)) : "memory");
}

__device__ inline void arrive_remote(uint64_t* bar, uint32_t rank) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" ::"r"(smem(bar)), "r"(rank)
        : "memory");
}

__device__ inline void wait(uint64_t* bar, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni OVER;\nbra.uni AGAIN;\nOVER:\n}" ::"r"(smem(bar)), "r"(parity)
        : "memory");
}

__device__ inline void wait_cluster(uint64_t* bar, uint32_t parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni OVER;\nbra.uni AGAIN;\nOVER:\n}" ::"r"(smem(bar)), "r"(parity)
        : "memory");
}

__device__ inline void load2(void* to, const Map* map, uint64_t* bar, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
            "r"(smem(to)), "l"(map), "r"(smem(bar)), "r"(x), "r"(y)
        : "memory");
}

__device__ inline void load2_multicast(void* to, const Map* map, uint64_t* bar, int x, int y, uint16_t blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(smem(to)), "l"(map), "r"(smem(bar)), "r"(x), "r"(y), "h"(blocks)
        : "memory");
}

__device__ inline void store2(const Map* map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(smem(from)), "r"(x), "r"(y)
                 : "memory");
}

__device__ inline void reduce2(const Map* map, const void* from, int x, int y) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(smem(from)), "r"(x), "r"(y)
                 : "memory");
}

__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> __device__ inline void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
__device__ inline void cluster_arrive_relaxed() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ inline void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Doubles a matrix of f32, tile by tile: TMA in, registers, TMA out; two stages. Block (x, y) of tiles 32 x 16.
extern "C" __global__ void __launch_bounds__(128) tma_copy(const __grid_constant__ Map in, const __grid_constant__ Map out,
                                                           int tiles) {
    __shared__ alignas(128) float tile[2][16 * 32];
    __shared__ alignas(128) float result[16 * 32];
    __shared__ uint64_t full[2];
    if (threadIdx.x == 0) {
        init(&full[0], 1);
        init(&full[1], 1);
        fence_init();
    }
    __syncthreads();
    const int y = blockIdx.x * 16;
    if (threadIdx.x == 0) {
        for (int t = 0; t < 2 && t < tiles; t++) {
            expect(&full[t], sizeof(tile[t]));
            load2(tile[t], &in, &full[t], t * 32, y);
        }
    }
    for (int t = 0; t < tiles; t++) {
        wait(&full[t % 2], t / 2 & 1);
        if (threadIdx.x == 0) bulk_wait_read<0>();
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < 16 * 32; i += 128) result[i] = 2 * tile[t % 2][i];
        fence_async();
        __syncthreads();
        if (threadIdx.x == 0) {
            store2(&out, result, t * 32, y);
            bulk_commit();
            if (t + 2 < tiles) {
                expect(&full[t % 2], sizeof(tile[t % 2]));
                load2(tile[t % 2], &in, &full[t % 2], (t + 2) * 32, y);
            }
        }
    }
    if (threadIdx.x == 0) bulk_wait_read<0>();
}

__device__ inline uint64_t descriptor(const void* p) {
    // 128-byte swizzle, 1024 bytes from 8 rows to the next.
    return 0x4000004000010000ull | (smem(p) & 0x3ffff) >> 4;
}

__device__ inline void wgmma128(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, "
        "%14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "
        "%60, %61, %62, %63}, %64, %65, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
          "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),
          "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),
          "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]),
          "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
          "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),
          "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
          "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "l"(a), "l"(b));
}

constexpr int STAGES = 3;

struct Shared {
    alignas(1024) __nv_bfloat16 a[STAGES][128 * 64];
    alignas(1024) __nv_bfloat16 b[STAGES][128 * 64];
    uint64_t full[STAGES], empty[STAGES];
};

// C = A B', A of M x K and B of N x K in bf16, C of M x N in f32. A block makes 128 x 128 of C: one warpgroup loads, two
// multiply 64 rows each. The two blocks of a cluster share the tile of B: each loads half of it for both.
extern "C" __global__ void __cluster_dims__(1, 2, 1) __launch_bounds__(384)
    matmul(const __grid_constant__ Map map_a, const __grid_constant__ Map map_b, float* c, int n, int k) {
    extern __shared__ __align__(1024) char raw[];
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const uint32_t rank = cluster_rank();
    const int group = threadIdx.x / 128, thread = threadIdx.x % 128;
    const int row = blockIdx.y * 128, column = blockIdx.x * 128, steps = k / 64;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            init(&s.full[i], 1);
            init(&s.empty[i], 4);  // two warpgroups of each block
        }
        fence_init();
    }
    cluster_arrive_relaxed();
    cluster_wait();
    __syncthreads();
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (thread == 0) {
#pragma unroll 1
            for (int i = 0; i < steps; i++) {
                const int stage = i % STAGES, turn = i / STAGES;
                wait_cluster(&s.empty[stage], (turn & 1) ^ 1);
                expect(&s.full[stage], sizeof(s.a[0]) + sizeof(s.b[0]));
                load2(s.a[stage], &map_a, &s.full[stage], i * 64, row);
                load2_multicast(s.b[stage] + rank * 64 * 64, &map_b, &s.full[stage], i * 64, column + rank * 64, 3);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        float d[64];
        for (int i = 0; i < 64; i++) d[i] = 0;
#pragma unroll 1
        for (int i = 0; i < steps; i++) {
            const int stage = i % STAGES, turn = i / STAGES;
            wait(&s.full[stage], turn & 1);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            const uint64_t a = descriptor(s.a[stage] + (group - 1) * 64 * 64), b = descriptor(s.b[stage]);
#pragma unroll
            for (int kk = 0; kk < 4; kk++) wgmma128(d, a + 2 * kk, b + 2 * kk);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (thread < 2) arrive_remote(&s.empty[stage], thread);
        }
        const int warp = thread / 32, lane = thread % 32;
        float* out = c + (size_t)(row + (group - 1) * 64 + warp * 16 + lane / 4) * n + column + lane % 4 * 2;
        for (int j = 0; j < 16; j++) {
            out[8 * j] = d[4 * j];
            out[8 * j + 1] = d[4 * j + 1];
            out[8 * n + 8 * j] = d[4 * j + 2];
            out[8 * n + 8 * j + 1] = d[4 * j + 3];
        }
    }
    cluster_sync();
}

// The sum of n values by a cluster of blocks: each sums a part, the first adds the parts from their shared memory.
extern "C" __global__ void __cluster_dims__(4, 1, 1) __launch_bounds__(128) cluster_sum(const float* in, float* out, int n) {
    __shared__ float part[128];
    __shared__ float total;
    float sum = 0;
#pragma unroll 1
    for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) sum += in[i];
    part[threadIdx.x] = sum;
#pragma unroll 1
    for (int stride = 64; stride > 0; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride) part[threadIdx.x] += part[threadIdx.x + stride];
    }
    if (threadIdx.x == 0) total = part[0];
    cluster_sync();
    if (cluster_rank() == 0 && threadIdx.x == 0) {
        float all = 0;
#pragma unroll 1
        for (uint32_t r = 0; r < 4; r++) {
            float value;
            asm volatile(
                "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %1, %2;\nld.shared::cluster.f32 %0, [remote];\n}"
                : "=f"(value)
                : "r"(smem(&total)), "r"(r)
                : "memory");
            all += value;
        }
        out[blockIdx.x / 4] = all;
    }
    cluster_sync();
}

// Each block sends its values to the next of its cluster with st.async, which signals the receiver's mbarrier.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64) send(const int* in, int* out) {
    __shared__ alignas(16) int inbox[64];
    __shared__ uint64_t bar;
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        init(&bar, 1);
        fence_init();
        expect(&bar, sizeof(inbox));
    }
    cluster_sync();
    const int i = blockIdx.x * 64 + threadIdx.x;
    asm volatile(
        "{\n.reg .b32 to, remote;\nmapa.shared::cluster.u32 to, %0, %3;\nmapa.shared::cluster.u32 remote, %1, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [to], %2, [remote];\n}" ::"r"(smem(&inbox[threadIdx.x])),
        "r"(smem(&bar)), "r"(in[i]), "r"(rank ^ 1)
        : "memory");
    wait_cluster(&bar, 0);
    out[i] = inbox[threadIdx.x];
    cluster_sync();
}

// Adds a tile of ones times the block's number into one place of a matrix: blocks meet in global memory.
extern "C" __global__ void __launch_bounds__(64) tma_reduce(const __grid_constant__ Map out) {
    __shared__ alignas(128) float tile[8 * 32];
#pragma unroll 1
    for (int i = threadIdx.x; i < 8 * 32; i += 64) tile[i] = blockIdx.x + 1 + i;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        reduce2(&out, tile, 3, 1);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

// Plain bulk copies: in, add one, out and added into a sum; the size in bytes is a multiple of 16.
extern "C" __global__ void __launch_bounds__(128) bulk(const int* in, int* out, int* sum, int count) {
    extern __shared__ __align__(1024) char raw[];
    int* data = reinterpret_cast<int*>(raw);
    __shared__ uint64_t bar;
    const uint32_t bytes = count * 4;
    if (threadIdx.x == 0) init(&bar, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(&bar, bytes);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         smem(data)),
                     "l"(in + blockIdx.x * count), "r"(bytes), "r"(smem(&bar))
                     : "memory");
    }
    wait(&bar, 0);
#pragma unroll 1
    for (int i = threadIdx.x; i < count; i += 128) data[i] += 1;
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out + blockIdx.x * count),
                     "r"(smem(data)), "r"(bytes)
                     : "memory");
        asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s32 [%0], [%1], %2;" ::"l"(sum),
                     "r"(smem(data)), "r"(bytes)
                     : "memory");
        bulk_commit();
        bulk_wait_read<0>();
    }
}
