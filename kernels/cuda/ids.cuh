// ids.cuh: how a kernel tells the host of an id outside its table, since nobody waits here to be told.

#pragma once

#include <stdint.h>

// Leaves position (upper half) and id (lower half) in *report, which is all ones while there is nothing to report; of several the lowest
// position stays, whatever the order.
__device__ __forceinline__ void report_id(unsigned long long* report, size_t position, int32_t id) {
    atomicMin(report, static_cast<unsigned long long>(position) << 32 | static_cast<uint32_t>(id));
}
