// Tensor-core building blocks of sm_80: cp.async into shared memory, swizzled tiles, ldmatrix, mma.sync.
//
// Not here: tile sizes, loops and epilogues, which belong to the kernels that use this (matmul, attention).
// Source: PTX ISA, "Data movement: cp.async", "Warp-level matrix instructions: ldmatrix, mma".
//
// Fragments, as the ISA defines them. With g = lane / 4 and t = lane % 4, a warp multiplies A (16, K) by B (K, 8):
//
//   m16n8k16, f16 or bf16: a register holds two neighbours along K, the lower one in the low half
//     a[0] row g,     k 2t, 2t+1        b[0] column g, k 2t, 2t+1        d[0], d[1] row g,     columns 2t, 2t+1
//     a[1] row g + 8, k 2t, 2t+1        b[1] column g, k 2t+8, 2t+9      d[2], d[3] row g + 8, columns 2t, 2t+1
//     a[2] row g,     k 2t+8, 2t+9
//     a[3] row g + 8, k 2t+8, 2t+9
//   m16n8k8, tf32: a register holds one element
//     a[0] row g, k t    a[1] row g + 8, k t    a[2] row g, k t+4    a[3] row g + 8, k t+4
//     b[0] column g, k t    b[1] column g, k t+4    d as above
//
// d[0..1] converted to half and packed is a[0] (or a[2]) of a next product over those columns: attention uses it for P.
//
// ldmatrix x4 reads four 8x8 matrices of 16-bit elements; lanes 8i .. 8i+7 give the addresses of the rows of matrix i,
// and register i gets, in lane (g, t), row g, columns 2t and 2t+1 (with _trans: rows 2t and 2t+1 of column g). So, with
// the lane's row and chunk from the functions rows_first_* and chunks_first_* below:
//   A (16, 16) stored (M, K), K contiguous: rows_first                 -> a[0..3]
//   B (16, 16) stored (N, K), K contiguous: chunks_first               -> b of two neighbouring n-tiles: {r0, r1}, {r2, r3}
//   B (16, 16) stored (K, N), N contiguous, _trans: rows_first         -> {r0, r1}, {r2, r3}
//   A (16, 16) stored (K, M), M contiguous, _trans: chunks_first       -> a[0..3]
// A tf32 operand stored with K contiguous is read the same way without _trans, as twice as many 16-bit elements.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

// The 32-bit address that shared-memory instructions take.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes from global to shared memory, both 16-byte aligned, past the L1 cache.
__device__ __forceinline__ void cp_async_16(uint32_t dst, const void* src) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

// The same, but only the first `bytes` (0 to 16) are read; the rest of the destination becomes zero. With bytes = 0, src is not read
// at all. Costs about five instructions more: where nothing is out of bounds, take the form above.
__device__ __forceinline__ void cp_async_16(uint32_t dst, const void* src, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
}

// Closes the group of this thread's copies since the last commit; empty groups count too.
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING of this thread's newest groups are under way. Other threads' copies need a barrier too.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    static_assert(PENDING >= 0, "a number of groups");
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Where 16-byte chunk `chunk` of row `row` lies in a tile of rows of ROW_BYTES: a byte offset without bank conflicts for
// eight consecutive rows at one chunk (ldmatrix) or eight consecutive chunks of one row (16-byte accesses).
//
// A 128-byte line has 8 slots of 16 bytes. With ROW_BYTES / 16 = PERIOD * odd, row r starts at slot
// r * PERIOD * odd % 8, which walks through all 8 / PERIOD multiples of PERIOD; xor of the chunk's low bits with
// r / (8 / PERIOD) then separates the PERIOD groups of rows that start alike. Rows of 32, 64, 96, 128, 160, 192, 256 bytes all
// work, and a chunk stays within its row because the row's number of chunks is a multiple of PERIOD.
template <int ROW_BYTES>
__host__ __device__ constexpr uint32_t swizzled(uint32_t row, uint32_t chunk) {
    static_assert(ROW_BYTES % 16 == 0, "rows are made of 16-byte chunks");
    constexpr uint32_t CHUNKS = ROW_BYTES / 16;
    constexpr uint32_t LOW_BIT = CHUNKS & (~CHUNKS + 1);
    constexpr uint32_t PERIOD = LOW_BIT < 8 ? LOW_BIT : 8;
    return row * ROW_BYTES + ((chunk ^ (row / (8 / PERIOD) % PERIOD)) * 16);
}

// Reads four 8x8 matrices of 16-bit elements; `address` is this lane's row of one of them (see above).
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// As ldmatrix_x4, each matrix transposed on the way.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Reads two 8x8 matrices; lanes 0 to 15 give the addresses.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

// This lane's row and 16-byte chunk for an ldmatrix_x4 of a 16x16 tile whose four matrices come in the order
// (rows 0-7, chunk 0), (rows 8-15, chunk 0), (rows 0-7, chunk 1), (rows 8-15, chunk 1): rows first.
__device__ __forceinline__ uint32_t rows_first_row(uint32_t lane) { return lane % 16; }
__device__ __forceinline__ uint32_t rows_first_chunk(uint32_t lane) { return lane / 16; }

// The same in the order (rows 0-7, chunk 0), (rows 0-7, chunk 1), (rows 8-15, chunk 0), (rows 8-15, chunk 1): chunks first.
__device__ __forceinline__ uint32_t chunks_first_row(uint32_t lane) { return lane % 8 + lane / 16 * 8; }
__device__ __forceinline__ uint32_t chunks_first_chunk(uint32_t lane) { return lane / 8 % 2; }

// d += a b over K = 16, f32 accumulators; T is __half or __nv_bfloat16.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma_m16n8k16<__nv_bfloat16>(
    float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma_m16n8k16<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a b over K = 8; operands are f32 bits already rounded by to_tf32.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Rounds f32 bits to tf32 (10 mantissa bits), ties away from zero: the tensor core itself would truncate.
__device__ __forceinline__ uint32_t to_tf32(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}
