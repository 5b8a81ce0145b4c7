/* A program of another language, linked against libcuda.so like any other: prototypes are written by hand, the library
 * is found through LD_LIBRARY_PATH. Prints "ok" when everything is as expected; argument 1 is a PTX file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

CUresult cuInit(unsigned int flags);
CUresult cuDriverGetVersion(int *version);
CUresult cuDeviceGetCount(int *count);
CUresult cuDeviceGet(CUdevice *device, int ordinal);
CUresult cuDeviceGetName(char *name, int length, CUdevice device);
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device);
CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device);
CUresult cuCtxDestroy_v2(CUcontext context);
CUresult cuCtxSynchronize(void);
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int count, int *options, void **values);
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name);
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes);
CUresult cuMemFree_v2(CUdeviceptr address);
CUresult cuMemGetInfo_v2(size_t *free, size_t *total);
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream);
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, CUstream stream, void **params, void **extra);
CUresult cuLaunchKernel_ptsz(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                             unsigned bz, unsigned shared, CUstream stream, void **params, void **extra);
CUresult cuStreamCreate(CUstream *stream, unsigned int flags);
CUresult cuStreamSynchronize(CUstream stream);
CUresult cuStreamBeginCapture_v2(CUstream stream, int mode);
CUresult cuStreamBeginCapture_v2_ptsz(CUstream stream, int mode);
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph);
CUresult cuStreamEndCapture_ptsz(CUstream stream, CUgraph *graph);
CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags);
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream);
CUresult cuGraphDestroy(CUgraph graph);
CUresult cuEventCreate(CUevent *event, unsigned int flags);
CUresult cuEventRecord(CUevent event, CUstream stream);
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);
CUresult cuGetErrorName(CUresult code, const char **name);
CUresult cuTexObjectCreate(void *, const void *, const void *, const void *);

static void expect(CUresult found, CUresult expected, int line) {
    const char *name = "?";
    if (found == expected) return;
    cuGetErrorName(found, &name);
    printf("line %d: %d (%s), expected %d\n", line, found, name, expected);
    exit(1);
}
#define OK(call) expect(call, 0, __LINE__)
#define FAILS(code, call) expect(call, code, __LINE__)
#define CHECK(condition)                                              \
    if (!(condition)) {                                               \
        printf("line %d: not so: %s\n", __LINE__, #condition);        \
        exit(1);                                                      \
    }

static char ptx[1 << 20];

int main(int count, char **arguments) {
    enum { N = 300 };
    float a[N], b[N], out[N];
    int version, devices, warp, n = N;
    char name[64], log[256];
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction add;
    CUdeviceptr da, db, dout;
    size_t free_before, free_after, total;
    FILE *file = fopen(arguments[count - 1], "rb");
    CHECK(file && fread(ptx, 1, sizeof ptx - 1, file) > 0);
    fclose(file);

    FAILS(3, cuDeviceGetCount(&devices)); /* not initialised */
    OK(cuInit(0));
    OK(cuDriverGetVersion(&version));
    CHECK(version == 13000);
    OK(cuDeviceGetCount(&devices));
    CHECK(devices == 1);
    OK(cuDeviceGet(&device, 0));
    FAILS(101, cuDeviceGet(&device, 1));
    OK(cuDeviceGetName(name, sizeof name, device));
    CHECK(strstr(name, "emulated"));
    OK(cuDeviceGetAttribute(&warp, 10, device));
    CHECK(warp == 32);
    FAILS(201, cuMemAlloc_v2(&da, 4)); /* no context */
    OK(cuCtxCreate_v2(&context, 0, device));

    /* The error log of a text that is no PTX names the line; its length is written over its size. */
    int options[2] = {5, 6};
    void *values[2] = {log, (void *)sizeof log};
    FAILS(218, cuModuleLoadDataEx(&module, ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() { frob; }", 2,
                                  options, values));
    CHECK(strstr(log, "line 4") && strstr(log, "frob") && (size_t)values[1] == strlen(log));
    /* The first bytes of a cubin, and then nothing. */
    static const char damaged[64] = "\177ELF";
    FAILS(200, cuModuleLoadDataEx(&module, damaged, 0, 0, 0));
    OK(cuModuleLoadDataEx(&module, ptx, 0, 0, 0));
    FAILS(500, cuModuleGetFunction(&add, module, "nothing"));
    OK(cuModuleGetFunction(&add, module, "vector_add"));

    OK(cuMemGetInfo_v2(&free_before, &total));
    CHECK(total == 64 << 20); /* memory=67108864 in the environment */
    OK(cuMemAlloc_v2(&da, sizeof a));
    OK(cuMemAlloc_v2(&db, sizeof b));
    OK(cuMemAlloc_v2(&dout, sizeof out));
    OK(cuMemGetInfo_v2(&free_after, &total));
    CHECK(free_before - free_after == 3 * 1536); /* 1200 B each, in units of 512 */
    FAILS(2, cuMemAlloc_v2(&dout, 65 << 20));
    OK(cuMemAlloc_v2(&dout, sizeof out));
    for (int i = 0; i < N; i++) a[i] = i, b[i] = 0.25f * i;
    OK(cuMemcpyHtoD_v2(da, a, sizeof a));
    OK(cuMemcpyHtoD_v2(db, b, sizeof b));
    FAILS(1, cuMemcpyHtoD_v2(db + 4, b, sizeof b)); /* past the end */
    void *params[] = {&dout, &da, &db, &n};
    OK(cuLaunchKernel(add, 3, 1, 1, 128, 1, 1, 0, 0, params, 0));
    OK(cuCtxSynchronize());
    OK(cuMemcpyDtoH_v2(out, dout, sizeof out));
    for (int i = 0; i < N; i++) CHECK(out[i] == 1.25f * i);

    /* The parameters as one block. */
    struct { CUdeviceptr out, a, b; int n; } block = {dout, da, da, n};
    size_t size = sizeof block;
    void *extra[] = {(void *)1, &block, (void *)2, &size, 0};
    OK(cuLaunchKernel(add, 3, 1, 1, 128, 1, 1, 0, 0, 0, extra));
    OK(cuMemcpyDtoH_v2(out, dout, sizeof out));
    CHECK(out[N - 1] == 2.0f * (N - 1));
    FAILS(1, cuLaunchKernel(add, 1, 1, 1, 2048, 1, 1, 0, 0, params, 0)); /* threads per block */

    /* A graph, captured in a stream, and in the thread's own default stream. */
    CUstream stream;
    CUgraph graph;
    CUgraphExec exec;
    CUevent start, end;
    float elapsed = -1;
    OK(cuStreamCreate(&stream, 1));
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    OK(cuStreamBeginCapture_v2(stream, 0));
    OK(cuLaunchKernel(add, 3, 1, 1, 128, 1, 1, 0, stream, params, 0));
    OK(cuMemcpyDtoHAsync_v2(out, dout, sizeof out, stream));
    FAILS(900, cuCtxSynchronize());
    FAILS(901, cuStreamEndCapture(stream, &graph));
    OK(cuStreamBeginCapture_v2(stream, 0));
    OK(cuLaunchKernel(add, 3, 1, 1, 128, 1, 1, 0, stream, params, 0));
    OK(cuMemcpyDtoHAsync_v2(out, dout, sizeof out, stream));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    memset(out, 0, sizeof out);
    OK(cuEventRecord(start, stream));
    OK(cuGraphLaunch(exec, stream));
    OK(cuEventRecord(end, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuEventElapsedTime(&elapsed, start, end));
    CHECK(elapsed > 0 && out[4] == 5.0f);
    OK(cuGraphDestroy(graph));
    FAILS(900, cuStreamBeginCapture_v2(0, 0)); /* the legacy default stream */
    OK(cuStreamBeginCapture_v2_ptsz(0, 0));
    OK(cuLaunchKernel_ptsz(add, 3, 1, 1, 128, 1, 1, 0, 0, params, 0));
    OK(cuStreamEndCapture_ptsz(0, &graph));
    OK(cuGraphDestroy(graph));

    FAILS(801, cuTexObjectCreate(0, 0, 0, 0));

    /* A finding is an error that the context keeps; another context works. */
    n = N + 1;
    FAILS(700, cuLaunchKernel(add, 3, 1, 1, 128, 1, 1, 0, 0, params, 0));
    FAILS(700, cuMemcpyDtoH_v2(out, dout, sizeof out));
    OK(cuCtxDestroy_v2(context));
    OK(cuCtxCreate_v2(&context, 0, device));
    OK(cuMemFree_v2(da));
    puts("ok");
    return 0;
}
