// What nvcc makes of params.h: the size of every parameter block and the offset of every field, in
// the order of layout_fields.h, as an initialised array that a test reads back from the module.
#include "params.h"

#include <stddef.h>

extern "C" __device__ const unsigned long long fflash_layout[] = {
#define BLOCK(block) sizeof(block),
#define FIELD(block, field) offsetof(block, field),
#include "layout_fields.h"
};

// Keeps the array: device code that nothing can reach is dropped.
extern "C" __global__ void fflash_layout_probe(unsigned long long *out) {
    out[threadIdx.x] = fflash_layout[threadIdx.x];
}
