// Divergence, atomics, spin locks, calls out of the kernel, and thread-local arrays.
#include <cstdint>
#include <cstdio>
#include <cassert>

// Steps of the Collatz sequence: every lane leaves the loop at its own time.
extern "C" __global__ void collatz(unsigned* out, const unsigned* inp, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long x = inp[i];
    unsigned steps = 0;
    while (x > 1) {
        if (x & 1) x = 3 * x + 1; else x >>= 1;
        steps++;
    }
    out[i] = steps;
}

// A lock taken by single lanes of a warp: legal since sm_70, and a deadlock on a machine with a divergence stack.
extern "C" __global__ void spin_lock(int* lock, int* counter) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *(volatile int*)counter = *(volatile int*)counter + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

extern "C" __global__ void histogram(unsigned* bins, const uint8_t* inp, int n) {
    __shared__ unsigned local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[inp[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        if (local[i]) atomicAdd(&bins[i], local[i]);
}

// One result of each atomic operation, on operands the host can follow.
extern "C" __global__ void atomics(int* s, unsigned* u, unsigned long long* q, float* f, double* d) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(s + 0, t - 20);
    atomicMin(s + 1, -t);
    atomicMax(s + 2, t * 3);
    atomicSub(s + 3, t);
    atomicMin(u + 0, 0x80000000u - t);
    atomicMax(u + 1, 0x80000000u + t);
    atomicAnd(u + 2, ~(1u << (t & 31)));
    atomicOr(u + 3, 1u << (t & 31));
    atomicXor(u + 4, t);
    atomicInc(u + 5, 10);
    atomicDec(u + 6, 10);
    atomicAdd(q + 0, (unsigned long long)t << 33);
    atomicMax(q + 1, (unsigned long long)t << 40);
    atomicAdd(f, 0.5f);
    atomicAdd(d, 0.25);
    if (atomicExch(u + 7, 1u) == 0u) u[8] = 77u;
}

// An array in local memory, indexed by a runtime value: insertion sort of eight keys per thread.
extern "C" __global__ void sort8(int* out, const int* inp) {
    int keys[8];
    int base = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    for (int i = 0; i < 8; i++) keys[i] = inp[base + i];
#pragma unroll 1
    for (int i = 1; i < 8; i++) {
        int key = keys[i], j = i - 1;
#pragma unroll 1
        while (j >= 0 && keys[j] > key) { keys[j + 1] = keys[j]; j--; }
        keys[j + 1] = key;
    }
    for (int i = 0; i < 8; i++) out[base + i] = keys[i];
}

extern "C" __global__ void say(int n, float x) {
    if (threadIdx.x < n) printf("thread %d of %u says %.3f %s 0x%llx%%\n", threadIdx.x, blockDim.x, x + threadIdx.x, "warp", 1ull << (32 + threadIdx.x));
}

extern "C" __global__ void assert_positive(const int* inp) { assert(inp[threadIdx.x] > 0); }

// A function that is really called, with parameters and a result, and one that recurses.
__device__ __noinline__ float polynomial(float x, const float* c, int degree) {
    float y = c[degree];
    for (int i = degree - 1; i >= 0; i--) y = fmaf(y, x, c[i]);
    return y;
}
__device__ __noinline__ unsigned fibonacci(unsigned n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
extern "C" __global__ void calls(float* y, unsigned* fib, const float* x, const float* c, int degree) {
    y[threadIdx.x] = polynomial(x[threadIdx.x], c, degree);
    fib[threadIdx.x] = fibonacci(threadIdx.x % 12);
}

// Warp-wide operations; row `i` of out holds the 32 lanes' results of operation i.
extern "C" __global__ void warp_operations(unsigned* out, const unsigned* inp) {
    unsigned lane = threadIdx.x, x = inp[lane];
    int row = 0;
    auto put = [&](unsigned v) { out[32 * row++ + lane] = v; };
    put(__shfl_sync(~0u, x, 5));
    put(__shfl_sync(~0u, x, lane + 3, 8));
    put(__shfl_up_sync(~0u, x, 2));
    put(__shfl_up_sync(~0u, x, 3, 16));
    put(__shfl_down_sync(~0u, x, 7));
    put(__shfl_xor_sync(~0u, x, 9));
    put(__ballot_sync(~0u, x & 1));
    put(__any_sync(~0u, x == 3));
    put(__all_sync(~0u, x < 1000));
    put(__match_any_sync(~0u, x % 5));
    int same;
    put(__match_all_sync(~0u, x, &same));
    put(same);
    put(__reduce_add_sync(~0u, x));
    put(__reduce_min_sync(~0u, (int)x - 50));
    put(__reduce_max_sync(~0u, x));
    put(__reduce_xor_sync(~0u, x));
    put(__reduce_and_sync(~0u, x | 0xf0));
    put(__reduce_or_sync(~0u, x));
    unsigned half = 0;
    if (lane < 16) half = __ballot_sync(0xffffu, x & 2);
    else half = __shfl_sync(0xffff0000u, x, 20);
    put(half);
    put(__activemask());
}
