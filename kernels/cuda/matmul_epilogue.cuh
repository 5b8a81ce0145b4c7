// What happens to a finished element of a product: bias, activation, residual, accumulation and the conversion to the output's
// type, with 16-byte stores where rows are aligned.
//
//   v = product + bias                                  (the null pointers and EPILOGUE_ bits say which of these)
//   gelu:           pre = v (unless null), v = gelu(v)  out = v + residual, or out += v + residual
//   gelu backward:  v = v gelu'(pre)
// order: each element is one thread's, so the result does not depend on timing.

#pragma once

#include "gelu.cuh"
#include "matmul_tile.cuh"

constexpr unsigned EPILOGUE_ACCUMULATE = 1;      // out += instead of out =
constexpr unsigned EPILOGUE_OUT_F32 = 2;         // out is f32 although the operands are not: bias and accumulation only
constexpr unsigned EPILOGUE_VECTOR = 4;          // rows of out, residual and pre, and bias, are 16-byte aligned
constexpr unsigned EPILOGUE_GELU = 8;            // pre = v where there is one, v = gelu(v)
constexpr unsigned EPILOGUE_GELU_BACKWARD = 16;  // v = v gelu'(pre)
constexpr unsigned EPILOGUE_TANH_FORM = 32;      // of gelu; else the erf form

// Which operations a store can do. PLAIN leaves residual and gelu out of the code: weight gradients, partial sums.
constexpr bool FULL = true;
constexpr bool PLAIN = false;

// Where results of one matrix go. B is the type of bias, O that of out, residual and pre.
template <typename B, typename O, bool CHAIN>
struct Store {
    static constexpr int LEN = 16 / sizeof(O);

    O* out;
    const B* bias;
    const O* residual;
    O* pre;
    size_t row_stride;
    int m, n;
    unsigned flags;

    __device__ __forceinline__ float finished(float v, float bias, float residual, float before, float& argument) const {
        v += bias;
        if constexpr (CHAIN == FULL) {
            if (flags & (EPILOGUE_GELU | EPILOGUE_GELU_BACKWARD)) {
                const bool backward = flags & EPILOGUE_GELU_BACKWARD;
                const float x = backward ? argument : v;
                const GeluPoint point = flags & EPILOGUE_TANH_FORM ? gelu_tanh(x) : gelu_erf(x);
                argument = x;
                v = backward ? v * point.slope : point.value;
            }
        }
        return before + (residual + v);
    }

    // Elements col to col + LEN of a row, all of them inside, aligned.
    __device__ __forceinline__ void vector(const float (&v)[LEN], int row, int col) const {
        const size_t at = row * row_stride + col;
        float before[LEN] = {}, skip[LEN] = {}, argument[LEN] = {}, offset[LEN] = {}, result[LEN];
        if (flags & EPILOGUE_ACCUMULATE) Vec<O>::load(out + at).unpack(before);
        if (CHAIN == FULL && residual) Vec<O>::load(residual + at).unpack(skip);
        if (CHAIN == FULL && (flags & EPILOGUE_GELU_BACKWARD)) Vec<O>::load(pre + at).unpack(argument);
        if (bias) {
            if constexpr (sizeof(B) == sizeof(O)) {
                Vec<B>::load(bias + col).unpack(offset);
            } else {
#pragma unroll
                for (int i = 0; i < LEN; i++) offset[i] = to_f32(bias[col + i]);
            }
        }
#pragma unroll
        for (int i = 0; i < LEN; i++) result[i] = finished(v[i], offset[i], skip[i], before[i], argument[i]);
        if (CHAIN == FULL && (flags & EPILOGUE_GELU) && pre) Vec<O>::pack(argument).store(pre + at);
        Vec<O>::pack(result).store(out + at);
    }

    __device__ __forceinline__ void one(float v, int row, int col) const {
        const size_t at = row * row_stride + col;
        const float before = flags & EPILOGUE_ACCUMULATE ? to_f32(out[at]) : 0.0f;
        const float skip = CHAIN == FULL && residual ? to_f32(residual[at]) : 0.0f;
        float argument = CHAIN == FULL && (flags & EPILOGUE_GELU_BACKWARD) ? to_f32(pre[at]) : 0.0f;
        const float result = finished(v, bias ? to_f32(bias[col]) : 0.0f, skip, before, argument);
        if (CHAIN == FULL && (flags & EPILOGUE_GELU) && pre) pre[at] = from_f32<O>(argument);
        out[at] = from_f32<O>(result);
    }

    // `read(i)` is element i of LEN from (row, col) on, `read4(i)` four of them from i, a multiple of 4. Past the matrix: nothing.
    template <typename Read, typename Read4>
    __device__ __forceinline__ void run(int row, int col, Read read, Read4 read4) const {
        if (row >= m || col >= n) return;
        if ((flags & EPILOGUE_VECTOR) && col + LEN <= n) {
            float v[LEN];
#pragma unroll
            for (int i = 0; i < LEN; i += 4) {
                const float4 four = read4(i);
                v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
            }
            vector(v, row, col);
        } else {
#pragma unroll 1
            for (int i = 0; i < LEN && col + i < n; i++) one(read(i), row, col + i);
        }
    }
};

// The store of a problem's batch in type O.
template <typename B, typename O, bool CHAIN>
__device__ __forceinline__ Store<B, O, CHAIN> store_of(const Problem& p, size_t batch) {
    const size_t shift = batch * p.out_batch;
    Store<B, O, CHAIN> store;
    store.out = static_cast<O*>(p.out) + shift;
    store.bias = static_cast<const B*>(p.bias);
    store.residual = p.residual ? static_cast<const O*>(p.residual) + shift : nullptr;
    store.pre = static_cast<O*>(p.pre) + (p.pre ? shift : 0);
    store.row_stride = p.out_row, store.m = p.m, store.n = p.n, store.flags = p.flags;
    return store;
}

// Between accumulators and stores, a tile (BM, BN) lies in shared memory as f32. Byte offset of columns 4 chunk to
// 4 chunk + 3 of a row. Conflict-free for four rows of 32 bytes, neighbours (accumulators of mma, 8 bytes a lane) or two apart
// (matmul_f32): they differ in bits 1 and 2 of the chunk; and for reads of 16 bytes a lane at a stride of 16 or 32 bytes (bit 3 tells the halves of a phase apart).
template <int BN>
__host__ __device__ constexpr uint32_t staged(uint32_t row, uint32_t chunk) {
    static_assert(BN % 64 == 0, "chunks are exchanged within groups of 16");
    return (row * (BN / 4) + (chunk ^ (chunk >> 3 & 1) ^ ((row ^ row >> 2 & 1) % 4 * 2))) * 16;
}

template <int BN, typename V = float>
__device__ __forceinline__ V& staged_at(char* stage, int row, int col) {
    return *reinterpret_cast<V*>(stage + staged<BN>(row, col / 4) + col % 4 * 4);
}

template <int BM, int BN, int THREADS, typename S>
__device__ __forceinline__ void store_tile(const S& store, char* stage, int row, int col) {
    constexpr int PER_ROW = BN / S::LEN;
    static_assert(BM * PER_ROW % THREADS == 0, "every thread stores as much as every other");
#pragma unroll 1
    for (int item = threadIdx.x; item < BM * PER_ROW; item += THREADS) {
        const int r = item / PER_ROW, c = item % PER_ROW * S::LEN;
        store.run(
            row + r, col + c, [&](int i) { return staged_at<BN>(stage, r, c + i); },
            [&](int i) { return staged_at<BN, float4>(stage, r, c + i); });
    }
}

// Sends the staged tile where the problem wants it: to this split's partial sums, to an f32 out, or to out in T. Every thread of
// the block calls it after a barrier.
template <typename T, bool CHAIN, int BM, int BN, int THREADS>
__device__ __forceinline__ void finish_tile(const Problem& p, const Work& work, char* stage) {
    if (p.partials == nullptr && (sizeof(T) == 4 || !(p.flags & EPILOGUE_OUT_F32))) {
        store_tile<BM, BN, THREADS>(store_of<T, T, CHAIN>(p, work.batch), stage, work.row, work.col);
        return;
    }
    auto store = store_of<T, float, PLAIN>(p, work.batch);
    if (p.partials != nullptr) {
        store.out = p.partials + (work.split * work.batches + work.batch) * p.m * p.n;
        store.bias = nullptr, store.row_stride = p.n;
        store.flags = p.n % 4 == 0 ? EPILOGUE_VECTOR : 0;
    }
    store_tile<BM, BN, THREADS>(store, stage, work.row, work.col);
}
