// matmul_{nn,nt,tn}_<tile>_f16: out[b] = epilogue(lhs[b] rhs[b]) on tensor cores.
//   nn: lhs (M, K), rhs (K, N)    nt: lhs (M, K), rhs stored (N, K)    tn: lhs stored (K, M), rhs (K, N), no activation
// shapes   out (M, N) of the operands' type or f32; bias (N); residual, pre (M, N) as out; batches at equal distances
// traffic  M K + K N + M N elements at best; a tile reads K (BM + BN) of them for 2 K BM BN FLOP
// launch   grid (tiles, splits, batches), block 32 threads per 64 x 64 or 32 x 32, dynamic shared STAGES (BM + BN) BK 2 bytes
// limits   operands and their strides 16-byte aligned (the launcher sends others to matmul_any); any M, N, K
// order    along K, 16 at a time by one warp per element; splits are summed in order by matmul_split_sum: bitwise repeatable
// source   ladder in study/, docs/src/ops/matmul.md; the parts are in matmul_tensor.cuh, matmul_tile.cuh, matmul_epilogue.cuh

#include "matmul_tensor.cuh"

using Tile128x256 = Tile<128, 256, 64, 64, 64, 3>;  // 144 KB of shared memory: one block of 8 warps on an SM
using Tile128x128 = Tile<128, 128, 32, 64, 64, 4>;  // 64 KB: two blocks of 4 warps
using Tile64x64 = Tile<64, 64, 64, 32, 32, 3>;      // 48 KB: three blocks of 4 warps

extern "C" __global__ void __launch_bounds__(256, 1) matmul_nn_128x256_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_STRIDED, Tile128x256>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(256, 1) matmul_nt_128x256_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_CONTIGUOUS, Tile128x256>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(256, 1) matmul_tn_128x256_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_STRIDED, K_STRIDED, Tile128x256>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 2) matmul_nn_128x128_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_STRIDED, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 2) matmul_nt_128x128_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_CONTIGUOUS, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 2) matmul_tn_128x128_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_STRIDED, K_STRIDED, Tile128x128>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 3) matmul_nn_64x64_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_STRIDED, Tile64x64>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 3) matmul_nt_64x64_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_CONTIGUOUS, K_CONTIGUOUS, Tile64x64>(MATMUL_PROBLEM);
}
extern "C" __global__ void __launch_bounds__(128, 3) matmul_tn_64x64_f16(MATMUL_PARAMETERS) {
    matmul_tensor<f16, K_STRIDED, K_STRIDED, Tile64x64>(MATMUL_PROBLEM);
}
