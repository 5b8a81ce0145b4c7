// view.cu: row-major copies of strided views.

#include "common.cuh"

// view_copy: out[i0..i5] = inp[sum of i * stride]
// shapes   out row-major of the sizes given (unused leading ones are 1); inp as its strides say
// traffic  reads and writes each element once
// launch   one-dimensional, 256 threads, a thread moves `width` neighbours of the last dimension: 16 bytes when that dimension is a
//          multiple of it, its stride is 1 and every such run is 16-byte aligned on both sides; else one element
// limits   sizes and strides below 2^32; moves bits, so one kernel serves all dtypes of its size
// order    no sums
template <typename T>
__device__ __forceinline__ void view_copy(T* __restrict__ out, const T* __restrict__ inp, const uint32_t (&size)[6],
                                          const uint32_t (&stride)[6], size_t groups, uint32_t width) {
    for (size_t i = thread_index(); i < groups; i += thread_count()) {
        size_t rest = i * width, at = 0;
#pragma unroll
        for (int d = 5; d > 0; --d) {
            if (size[d] == 1) continue;
            const size_t outer = rest / size[d];
            at += (rest - outer * size[d]) * stride[d];
            rest = outer;
        }
        at += rest * stride[0];
        if (width == 1) {
            out[i] = inp[at];
        } else {
            reinterpret_cast<uint4*>(out)[i] = __ldg(reinterpret_cast<const uint4*>(inp + at));
        }
    }
}

// view_transpose: out[b, c, r] = inp[b, r, c]: a copy whose reads are contiguous along another dimension than its writes
//   c is the dimension along which inp is contiguous, r the last one of out; b stands for what else there is, before c or between c
//   and r: with reversed dimensions, b lies between.
// shapes   out: columns `out_stride` apart, rows 1 apart; inp: rows `row_stride` apart, columns 1 apart; two outer dimensions, with
//          strides on both sides
// traffic  reads and writes each element once, both in runs of 32 elements
// launch   grid (ceil(C/32), ceil(R/32), outer0 * outer1), block (32, 8); a tile of 32 x 33 elements in shared memory (the odd row
//          length spreads a column over all banks)
// limits   outer0 * outer1 < 65536, ceil(R/32) < 65536; strides below 2^32
// order    no sums
template <typename T>
__device__ __forceinline__ void view_transpose(T* __restrict__ out, const T* __restrict__ inp, uint32_t rows,
                                               uint32_t cols, uint32_t out_stride, uint32_t row_stride, uint32_t outer1_size,
                                               uint32_t out0, uint32_t out1, uint32_t inp0, uint32_t inp1) {
    __shared__ T tile[32][33];
    const size_t outer0 = blockIdx.z / outer1_size, outer1 = blockIdx.z % outer1_size;
    inp += outer0 * inp0 + outer1 * inp1;
    out += outer0 * out0 + outer1 * out1;
    const uint32_t first_col = blockIdx.x * 32, first_row = blockIdx.y * 32;
    for (uint32_t y = threadIdx.y; y < 32; y += 8) {
        const uint32_t row = first_row + y, col = first_col + threadIdx.x;
        if (row < rows && col < cols) tile[y][threadIdx.x] = inp[size_t(row) * row_stride + col];
    }
    __syncthreads();
    for (uint32_t y = threadIdx.y; y < 32; y += 8) {
        const uint32_t col = first_col + y, row = first_row + threadIdx.x;
        if (row < rows && col < cols) out[size_t(col) * out_stride + row] = tile[threadIdx.x][y];
    }
}

extern "C" __global__ void __launch_bounds__(256)
    view_copy_b16(uint16_t* out, const uint16_t* inp, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3, uint32_t s4, uint32_t s5,
                  uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3, uint32_t t4, uint32_t t5, uint64_t groups,
                  uint32_t width) {
    const uint32_t size[6] = {s0, s1, s2, s3, s4, s5}, stride[6] = {t0, t1, t2, t3, t4, t5};
    view_copy(out, inp, size, stride, groups, width);
}

extern "C" __global__ void __launch_bounds__(256)
    view_transpose_b16(uint16_t* out, const uint16_t* inp, uint32_t rows, uint32_t cols, uint32_t out_stride, uint32_t row_stride,
                       uint32_t outer1_size, uint32_t out0, uint32_t out1, uint32_t inp0, uint32_t inp1) {
    view_transpose(out, inp, rows, cols, out_stride, row_stride, outer1_size, out0, out1, inp0, inp1);
}

extern "C" __global__ void __launch_bounds__(256)
    view_copy_b32(uint32_t* out, const uint32_t* inp, uint32_t s0, uint32_t s1, uint32_t s2, uint32_t s3, uint32_t s4, uint32_t s5,
                  uint32_t t0, uint32_t t1, uint32_t t2, uint32_t t3, uint32_t t4, uint32_t t5, uint64_t groups,
                  uint32_t width) {
    const uint32_t size[6] = {s0, s1, s2, s3, s4, s5}, stride[6] = {t0, t1, t2, t3, t4, t5};
    view_copy(out, inp, size, stride, groups, width);
}

extern "C" __global__ void __launch_bounds__(256)
    view_transpose_b32(uint32_t* out, const uint32_t* inp, uint32_t rows, uint32_t cols, uint32_t out_stride, uint32_t row_stride,
                       uint32_t outer1_size, uint32_t out0, uint32_t out1, uint32_t inp0, uint32_t inp1) {
    view_transpose(out, inp, rows, cols, out_stride, row_stride, outer1_size, out0, out1, inp0, inp1);
}
