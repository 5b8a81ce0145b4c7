// Blocks that wait for each other, and a kernel with clusters' launch attributes in mind: for the driver's tests.
#include <cooperative_groups.h>

// grid_sum: out[b] = sum over all blocks c of (c + 1), which every block reads after all have written their part
// shapes   part, out (gridDim.x) i32
// launch   cooperative; grid B, block 32
extern "C" __global__ void grid_sum(int *out, int *part) {
    if (threadIdx.x == 0) part[blockIdx.x] = blockIdx.x + 1;
    cooperative_groups::this_grid().sync();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int c = 0; c < gridDim.x; c++) sum += part[c];
        out[blockIdx.x] = sum;
    }
}
