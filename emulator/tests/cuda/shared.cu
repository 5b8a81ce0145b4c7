// Kernels that work together through shared memory, shuffles and barriers.
#include <cstdint>

extern "C" __global__ void block_sum(float* out, const float* inp, int n) {
    __shared__ float partial[32];
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += inp[i];
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < (blockDim.x + 31) / 32 ? partial[lane] : 0.0f;
        for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_down_sync(0xffffffffu, sum, offset);
        if (lane == 0) out[blockIdx.x] = sum;
    }
}

// One block per row: y = exp(x - max) / sum. Row maximum and sum through dynamic shared memory.
extern "C" __global__ void softmax_row(float* out, const float* inp, int columns) {
    extern __shared__ float scratch[];
    const float* x = inp + (size_t)blockIdx.x * columns;
    float* y = out + (size_t)blockIdx.x * columns;
    float largest = -INFINITY;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) largest = fmaxf(largest, x[c]);
    scratch[threadIdx.x] = largest;
    __syncthreads();
    for (int stride = blockDim.x / 2; stride > 0; stride >>= 1) {
        if (threadIdx.x < stride) scratch[threadIdx.x] = fmaxf(scratch[threadIdx.x], scratch[threadIdx.x + stride]);
        __syncthreads();
    }
    largest = scratch[0];
    __syncthreads();
    float sum = 0.0f;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += expf(x[c] - largest);
    scratch[threadIdx.x] = sum;
    __syncthreads();
    for (int stride = blockDim.x / 2; stride > 0; stride >>= 1) {
        if (threadIdx.x < stride) scratch[threadIdx.x] += scratch[threadIdx.x + stride];
        __syncthreads();
    }
    sum = scratch[0];
    for (int c = threadIdx.x; c < columns; c += blockDim.x) y[c] = expf(x[c] - largest) / sum;
}

// C = A B for row-major f32, 16 x 16 tiles in shared memory; any sizes.
extern "C" __global__ void matmul_tiled(float* c, const float* a, const float* b, int m, int n, int k) {
    __shared__ float tile_a[16][16], tile_b[16][17];
    int row = blockIdx.y * 16 + threadIdx.y, col = blockIdx.x * 16 + threadIdx.x;
    float sum = 0.0f;
    for (int start = 0; start < k; start += 16) {
        int ka = start + threadIdx.x, kb = start + threadIdx.y;
        tile_a[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[(size_t)row * k + ka] : 0.0f;
        tile_b[threadIdx.y][threadIdx.x] = kb < k && col < n ? b[(size_t)kb * n + col] : 0.0f;
        __syncthreads();
        for (int i = 0; i < 16; i++) sum = fmaf(tile_a[threadIdx.y][i], tile_b[i][threadIdx.x], sum);
        __syncthreads();
    }
    if (row < m && col < n) c[(size_t)row * n + col] = sum;
}

// Warps 0 produces, warps 1..3 consume: named barriers with arrive and sync.
extern "C" __global__ void named_barriers(int* out) {
    __shared__ int slot[96];
    int warp = threadIdx.x / 32;
    if (warp == 0) {
        for (int i = threadIdx.x; i < 96; i += 32) slot[i] = 3 * i + 1;
        asm volatile("bar.arrive 1, 128;" ::: "memory");
    } else {
        asm volatile("bar.sync 1, 128;" ::: "memory");
        out[threadIdx.x - 32] = slot[threadIdx.x - 32];
    }
    int odd = __syncthreads_count(threadIdx.x & 1);
    int any = __syncthreads_or(threadIdx.x == 77);
    int all = __syncthreads_and(threadIdx.x < 100);
    if (threadIdx.x == 0) { out[96] = odd; out[97] = any != 0; out[98] = all != 0; }
}
