// Building blocks of sm_90a: mbarriers, tensor copies (TMA), products of a warpgroup (wgmma).
//
// Not here: tile sizes, loops and epilogues, which belong to the kernels that use this.
// Source: PTX ISA, "Parallel synchronization and communication: mbarrier", "Data movement: cp.async.bulk.tensor",
// "Asynchronous warpgroup level matrix instructions: wgmma".

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>
#include <type_traits>

// What cuTensorMapEncodeTiled fills: address, sizes and strides of a tensor, box and swizzle of a copy.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

__device__ __forceinline__ uint32_t shared_address_of(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A barrier in shared memory, 8 bytes. Its phase ends when `arrivals` threads have arrived and the announced bytes have come.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes the initialisations of this thread visible to copies; other threads need a barrier of the block too.
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and announces bytes that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expecting(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Until the phase of this parity has ended. A new barrier is in phase 0, and the phase before it, of parity 1, counts as ended.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
        "@!ended bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Starts to copy the box of `map` at (x, y, z), x counting along the fastest dimension, to dst; what lies outside the tensor
// becomes zero. All bytes of the box count on `barrier`.
__device__ __forceinline__ void copy_box(uint32_t dst, const TensorMap& map, int x, int y, int z, uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
            dst),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// A tile in shared memory, lines of 128 bytes swizzled by the copy, eight lines (1,024 bytes, aligned so) a pattern.
//   K contiguous: a line is 64 of K for one of M or N; `stride` is from eight lines to the next eight; `lead` is not used
//   K strided:    a line is 64 of M or N for one of K; `stride` is from eight of K to the next eight, `lead` from 64 of M or N
//                 to the next 64
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t lead_bytes, uint32_t stride_bytes) {
    return static_cast<uint64_t>(address >> 4 & 0x3fff) | static_cast<uint64_t>(lead_bytes >> 4) << 16 |
           static_cast<uint64_t>(stride_bytes >> 4) << 32 | 1ull << 62;
}

// Before the first product, and whenever registers that a product uses were written otherwise.
__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes the group of the products since the last commit.
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most PENDING of the newest groups are under way.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// d (64, 128) += a (64, 16) b (16, 128), started by the 128 threads of a warpgroup; both operands in shared memory. Warp w holds rows
// 16 w .. of d, in it d[j] columns 8 j .. as mma.cuh lays out a d of 16 x 8.
#define WGMMA_64X128X16(TYPE)                                                                                           \
    asm volatile(                                                                                                       \
        "{\n"                                                                                                           \
        ".reg .pred add;\n"                                                                                             \
        "setp.eq.u32 add, 0, 0;\n"                                                                                      \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                                    \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, "   \
        "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "     \
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "         \
        "%64, %65, add, 1, 1, %66, %67;\n"                                                                              \
        "}"                                                                                                             \
        : WGMMA_COLUMNS(0), WGMMA_COLUMNS(1), WGMMA_COLUMNS(2), WGMMA_COLUMNS(3), WGMMA_COLUMNS(4), WGMMA_COLUMNS(5),   \
          WGMMA_COLUMNS(6), WGMMA_COLUMNS(7), WGMMA_COLUMNS(8), WGMMA_COLUMNS(9), WGMMA_COLUMNS(10), WGMMA_COLUMNS(11), \
          WGMMA_COLUMNS(12), WGMMA_COLUMNS(13), WGMMA_COLUMNS(14), WGMMA_COLUMNS(15)                                    \
        : "l"(a), "l"(b), "n"(A_STRIDED), "n"(B_STRIDED))
#define WGMMA_COLUMNS(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])

template <typename T, bool A_STRIDED, bool B_STRIDED>
__device__ __forceinline__ void wgmma(float (&d)[16][4], uint64_t a, uint64_t b) {
    static_assert(sizeof(T) == 2, "f16 or bf16");
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        WGMMA_64X128X16("bf16");
    } else {
        WGMMA_64X128X16("f16");
    }
}
#undef WGMMA_64X128X16
#undef WGMMA_COLUMNS
