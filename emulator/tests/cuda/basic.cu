// Elementwise kernels, the smallest programs the emulator must run: vector add, saxpy, and a strided copy.
#include <cstdint>

extern "C" __global__ void vector_add(float* out, const float* a, const float* b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}

extern "C" __global__ void saxpy(float* y, const float* __restrict__ x, float alpha, unsigned n) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        y[i] = fmaf(alpha, x[i], y[i]);
}

// Copies float4 rows: the vector loads and stores of 16 bytes.
extern "C" __global__ void copy_float4(float4* out, const float4* inp, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __ldg(inp + i);
}

// A structure passed by value: parameters are an array of bytes, read at offsets.
struct Affine { double scale; float shift; int n; short tag[4]; };
extern "C" __global__ void affine_by_value(double* out, const float* inp, Affine affine) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < affine.n) out[i] = affine.scale * (double)inp[i] + (double)affine.shift + (double)affine.tag[i & 3];
}

__constant__ float taps[5] = {0.0625f, 0.25f, 0.375f, 0.25f, 0.0625f};
__device__ unsigned long long launches;
extern "C" __global__ void convolve5(float* out, const float* inp, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i == 0) launches += 1;
    if (i >= n) return;
    float sum = 0.0f;
    for (int k = 0; k < 5; k++) {
        int j = i + k - 2;
        if (j >= 0 && j < n) sum = fmaf(taps[k], inp[j], sum);
    }
    out[i] = sum;
}

// The inner loop of the speed measurement: 8 independent chains of fused multiply-adds.
extern "C" __global__ void fma_loop(float* out, float a, float b, int steps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float x0 = i, x1 = i + 1, x2 = i + 2, x3 = i + 3, x4 = i + 4, x5 = i + 5, x6 = i + 6, x7 = i + 7;
#pragma unroll 4
    for (int s = 0; s < steps; s++) {
        x0 = fmaf(x0, a, b); x1 = fmaf(x1, a, b); x2 = fmaf(x2, a, b); x3 = fmaf(x3, a, b);
        x4 = fmaf(x4, a, b); x5 = fmaf(x5, a, b); x6 = fmaf(x6, a, b); x7 = fmaf(x7, a, b);
    }
    out[i] = ((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7));
}
