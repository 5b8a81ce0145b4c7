/* What nvcc makes of a program with a kernel, a variable and a launch, by hand; then the calls that programs make.
   Prints "ok" when all of it holds. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct { unsigned x, y, z; } dim3;
typedef struct { size_t shared, constant, local; int max_threads, registers, more[24]; } attributes;
typedef struct { int type, device; void *on_device, *on_host; long reserved[8]; } pointer;

void **__cudaRegisterFatBinary(void *);
void __cudaRegisterFatBinaryEnd(void **);
void __cudaRegisterFunction(void **, const char *, char *, const char *, int, void *, void *, void *, void *, int *);
char __cudaInitModule(void **);
void __cudaRegisterManagedVar(void **, void **, char *, const char *, int, size_t, int, int);
void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int);
unsigned __cudaPushCallConfiguration(dim3, dim3, size_t, void *);
int __cudaPopCallConfiguration(dim3 *, dim3 *, size_t *, void **);
int cudaLaunchKernel(const void *, dim3, dim3, void **, size_t, void *);
int cudaMalloc(void **, size_t), cudaFree(void *), cudaMemcpy(void *, const void *, size_t, int);
int cudaMemcpyToSymbol(const void *, const void *, size_t, size_t, int);
int cudaMemcpyFromSymbol(void *, const void *, size_t, size_t, int);
int cudaMallocManaged(void **, size_t, unsigned), cudaPointerGetAttributes(pointer *, const void *);
int cudaMemcpy2D(void *, size_t, const void *, size_t, size_t, size_t, int);
int cudaStreamCreate(void **), cudaStreamDestroy(void *), cudaStreamSynchronize(void *);
int cudaStreamBeginCapture(void *, int), cudaStreamEndCapture(void *, void **);
int cudaGraphInstantiate(void **, void *, unsigned long long), cudaGraphLaunch(void *, void *);
int cudaEventCreate(void **), cudaEventRecord(void *, void *), cudaEventElapsedTime(float *, void *, void *);
int cudaFuncGetAttributes(attributes *, const void *), cudaDeviceSynchronize(void), cudaDeviceReset(void);
int cudaGetLastError(void), cudaPeekAtLastError(void), cudaGetDeviceCount(int *), cudaSetDevice(int);
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *, const void *, int, size_t);
const char *cudaGetErrorName(int), *cudaGetErrorString(int);

typedef struct { void *stub; dim3 grid, block; unsigned shared; void **params, **extra; } kernel_node;
typedef struct { void *to; size_t pitch; unsigned value, element; size_t width, height; } set_node;
typedef struct { void *array; size_t position[3]; void *at; size_t pitch, width, height; } end;
typedef struct { end from, to; size_t extent[3]; int kind; } copy3;
int cudaGraphCreate(void **, unsigned), cudaMemcpy3D(const copy3 *);
int cudaGraphAddKernelNode(void **, void *, void *const *, size_t, const kernel_node *);
int cudaGraphAddMemcpyNode1D(void **, void *, void *const *, size_t, void *, const void *, size_t, int);
int cudaGraphAddMemsetNode(void **, void *, void *const *, size_t, const set_node *);

/* Adds the variable `step` to n numbers. */
static const char ptx[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .global .align 4 .f32 step;\n"
    ".global .attribute(.managed) .align 4 .f32 both[3] = {0f40000000, 0f40400000, 0f40800000};\n"
    ".visible .entry twice() { .reg .f32 %f<2>; ld.global.f32 %f1, [both+4]; add.f32 %f1, %f1, %f1;\n"
    "st.global.f32 [both+4], %f1; ret; }\n"
    ".visible .entry add(.param .u64 x, .param .u32 n) {\n"
    ".reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %rd<4>; .reg .pred %p;\n"
    "ld.param.u64 %rd1, [x]; ld.param.u32 %r1, [n];\n"
    "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.u32 %r2, %r2, %r3, %r4;\n"
    "setp.ge.u32 %p, %r2, %r1; @%p ret;\n"
    "mul.wide.u32 %rd2, %r2, 4; add.s64 %rd1, %rd1, %rd2;\n"
    "ld.global.f32 %f1, [%rd1]; ld.global.f32 %f2, [step]; add.f32 %f1, %f1, %f2; st.global.f32 [%rd1], %f1; ret;\n}\n";

static struct {
    unsigned magic; unsigned short version, header; unsigned long long size;
    unsigned short kind, entry_version; unsigned entry_header; unsigned long long payload;
    unsigned packed, options, ptx_version, arch, name[2]; unsigned long long flags, more, unpacked;
    char text[sizeof ptx];
} image = {0xba55ed50, 1, 16, 64 + sizeof ptx, 1, 0x101, 64, sizeof ptx, 0, 0, 0, 80, {0, 0}, 0x11, 0, 0, ""};
static struct { int magic, version; const void *data, *file; } wrapper = {0x466243b1, 1, &image, 0};

static char step, twice;
static float *both;
static void add(float *x, unsigned n) {
    dim3 grid, block; size_t shared; void *stream, *params[] = {&x, &n};
    if (!__cudaPopCallConfiguration(&grid, &block, &shared, &stream))
        cudaLaunchKernel((void *)add, grid, block, params, shared, stream);
}

static int failed;
#define IS(expected, call) do { int code_ = (call); if (code_ != (expected)) { failed = 1; \
    printf("line %d: %d (%s), expected %d\n", __LINE__, code_, cudaGetErrorName(code_), expected); } } while (0)
#define OK(call) IS(0, call)
#define HOLDS(what) do { if (!(what)) { failed = 1; printf("line %d: %s\n", __LINE__, #what); } } while (0)

int main(void) {
    memcpy(image.text, ptx, sizeof ptx);
    void **handle = __cudaRegisterFatBinary(&wrapper);
    __cudaRegisterFunction(handle, (char *)add, "add", "add", -1, 0, 0, 0, 0, 0);
    __cudaRegisterVar(handle, &step, "step", "step", 0, 4, 0, 0);
    __cudaRegisterFunction(handle, &twice, "twice", "twice", -1, 0, 0, 0, 0, 0);
    __cudaRegisterManagedVar(handle, (void **)&both, "both", "both", 0, 12, 0, 0);
    __cudaRegisterFatBinaryEnd(handle);
    int n;
    OK(cudaGetDeviceCount(&n));
    HOLDS(n == 1);
    IS(101, cudaSetDevice(1));
    IS(101, cudaPeekAtLastError());
    IS(101, cudaGetLastError());
    OK(cudaGetLastError());
    float host[100], half = 0.5f, back = 0, *x, *managed;
    for (int i = 0; i < 100; i++) host[i] = i;
    OK(cudaMalloc((void **)&x, sizeof host));
    OK(cudaMemcpy(x, host, sizeof host, 1));
    OK(cudaMemcpyToSymbol(&step, &half, 4, 0, 1));
    OK(cudaMemcpyFromSymbol(&back, &step, 4, 0, 2));
    HOLDS(back == half);
    IS(1, cudaMemcpyToSymbol(&step, &half, 4, 1, 1));
    IS(13, cudaMemcpyToSymbol(&half, &half, 4, 0, 1));
    IS(21, cudaMemcpy(x, host, 4, 7));
    dim3 grid = {4, 1, 1}, block = {32, 1, 1}, none = {0, 1, 1};
    __cudaPushCallConfiguration(grid, block, 0, 0);
    add(x, 100);
    OK(cudaDeviceSynchronize());
    OK(cudaMemcpy(host, x, sizeof host, 2));
    for (int i = 0; i < 100; i++) HOLDS(host[i] == i + 0.5f);
    void *params[] = {&x, &n};
    cudaGetLastError();
    IS(9, cudaLaunchKernel((void *)add, none, block, params, 0, 0));
    IS(98, cudaLaunchKernel(&half, grid, block, params, 0, 0));
    HOLDS(strcmp(cudaGetErrorString(98), "invalid device function") == 0);
    IS(98, cudaGetLastError());
    /* A captured launch does nothing until its graph is launched, twice here. */
    void *stream, *graph, *exec, *before, *after;
    float ms = -1;
    OK(cudaStreamCreate(&stream));
    OK(cudaEventCreate(&before));
    OK(cudaEventCreate(&after));
    OK(cudaEventRecord(before, stream));
    OK(cudaStreamBeginCapture(stream, 0));
    __cudaPushCallConfiguration(grid, block, 0, stream);
    add(x, 100);
    OK(cudaStreamEndCapture(stream, &graph));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaEventRecord(after, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaEventElapsedTime(&ms, before, after));
    HOLDS(ms >= 0);
    OK(cudaMemcpy2D(host, 8, x, 40, 4, 10, 2));
    for (int i = 0; i < 10; i++) HOLDS(host[2 * i] == 10 * i + 1.5f);
    OK(cudaStreamDestroy(stream));
    /* A graph by hand: zeros, the kernel, and the copy to the host, in a row. */
    void *set, *run, *copy;
    n = 100;
    set_node zeros = {x, 0, 0, 4, 100, 1};
    kernel_node launch = {(void *)add, grid, block, 0, params, 0};
    OK(cudaGraphCreate(&graph, 0));
    OK(cudaGraphAddMemsetNode(&set, graph, 0, 0, &zeros));
    OK(cudaGraphAddKernelNode(&run, graph, &set, 1, &launch));
    OK(cudaGraphAddMemcpyNode1D(&copy, graph, &run, 1, host, x, sizeof host, 2));
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphLaunch(exec, 0));
    OK(cudaDeviceSynchronize());
    for (int i = 0; i < 100; i++) HOLDS(host[i] == 0.5f);
    /* The second of two slices of 3 rows of 4 numbers, from rows of 8. */
    float box[2][3][8], inner[3][4] = {{0}};
    for (int i = 0; i < 48; i++) ((float *)box)[i] = i;
    copy3 c = {{0, {16, 0, 1}, box, 32, 32, 3}, {0, {0, 0, 0}, inner, 16, 16, 3}, {16, 3, 1}, 4};
    OK(cudaMemcpy3D(&c));
    for (int i = 0; i < 12; i++) HOLDS(inner[i / 4][i % 4] == 24 + 8 * (i / 4) + 4 + i % 4);
    OK(cudaMallocManaged((void **)&managed, 400, 1));
    managed[7] = 1;
    __cudaPushCallConfiguration(grid, block, 0, 0);
    add(managed, 100);
    HOLDS(managed[7] == 1.5f);
    /* A variable of both sides. */
    dim3 one = {1, 1, 1};
    __cudaInitModule(handle);
    HOLDS(both[0] == 2 && both[1] == 3 && both[2] == 4);
    both[1] = 10;
    OK(cudaLaunchKernel(&twice, one, one, params, 0, 0));
    OK(cudaDeviceSynchronize());
    HOLDS(both[1] == 20);
    pointer p;
    OK(cudaPointerGetAttributes(&p, both));
    HOLDS(p.type == 3);
    OK(cudaPointerGetAttributes(&p, managed));
    HOLDS(p.type == 3);
    OK(cudaPointerGetAttributes(&p, x));
    HOLDS(p.type == 2);
    OK(cudaPointerGetAttributes(&p, host));
    HOLDS(p.type == 0);
    attributes a;
    OK(cudaFuncGetAttributes(&a, (void *)add));
    HOLDS(a.max_threads == 1024 && a.registers > 0);
    OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, (void *)add, 1024, 0));
    HOLDS(n == 2);
    /* Past the end: the launch's error stays until the device is reset. */
    cudaGetLastError();
    __cudaPushCallConfiguration(grid, block, 0, 0);
    add(x, 101);
    IS(700, cudaGetLastError());
    IS(700, cudaDeviceSynchronize());
    OK(cudaDeviceReset());
    cudaGetLastError();
    OK(cudaMalloc((void **)&x, sizeof host));
    OK(cudaMemcpy(x, host, sizeof host, 1));
    OK(cudaMemcpyToSymbol(&step, &half, 4, 0, 1));
    __cudaPushCallConfiguration(grid, block, 0, 0);
    add(x, 100);
    OK(cudaGetLastError());
    OK(cudaFree(x));
    if (!failed) puts("ok");
    return failed;
}
