// matmul_wgmma_{nn,nt,tn}_<tile>_bf16: out[b] = epilogue(lhs[b] rhs[b]) on Hopper's tensor cores.
//   nn: lhs (M, K), rhs (K, N)    nt: lhs (M, K), rhs stored (N, K)    tn: lhs stored (K, M), rhs (K, N), no activation
// shapes   out (M, N) of the operands' type or f32; bias (N); residual, pre (M, N) as out; batches at equal distances
// traffic  M K + K N + M N elements at best; a tile reads K (BM + BN) of them for 2 K BM BN FLOP
// launch   grid (tiles, splits, batches), block 288, dynamic shared STAGES ((BM + BN) 128 + 16) + 1024 bytes
// limits   operands, their rows and batches 16-byte aligned, every size at least 1, each batch of its own; any M, N, K beside that
// order    along K, 16 at a time by one warpgroup per element; splits are summed in order by matmul_split_sum: bitwise repeatable
// source   docs/src/ops/matmul.md; the parts are in matmul_wgmma.cuh, hopper.cuh, ../matmul_tile.cuh, ../matmul_epilogue.cuh

#include "matmul_wgmma.cuh"

using Tile128x256 = WgmmaTile<2, 4>;  // 193 KB of shared memory: one block on an SM
using Tile128x128 = WgmmaTile<1, 3>;  // 97 KB: two blocks, one of which multiplies while the other stores

extern "C" __global__ void __launch_bounds__(288, 1) matmul_wgmma_nn_128x256_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_CONTIGUOUS, K_STRIDED, Tile128x256>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
extern "C" __global__ void __launch_bounds__(288, 1) matmul_wgmma_nt_128x256_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_CONTIGUOUS, K_CONTIGUOUS, Tile128x256>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
extern "C" __global__ void __launch_bounds__(288, 1) matmul_wgmma_tn_128x256_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_STRIDED, K_STRIDED, Tile128x256>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
extern "C" __global__ void __launch_bounds__(288, 2) matmul_wgmma_nn_128x128_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_CONTIGUOUS, K_STRIDED, Tile128x128>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
extern "C" __global__ void __launch_bounds__(288, 2) matmul_wgmma_nt_128x128_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_CONTIGUOUS, K_CONTIGUOUS, Tile128x128>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
extern "C" __global__ void __launch_bounds__(288, 2) matmul_wgmma_tn_128x128_bf16(WGMMA_PARAMETERS) {
    matmul_wgmma<bf16, K_STRIDED, K_STRIDED, Tile128x128>(WGMMA_PROBLEM, lhs_map, rhs_map);
}
