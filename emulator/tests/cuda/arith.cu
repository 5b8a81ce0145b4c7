// Arithmetic of every width, one result per row of the output, so that a host can check each against exact arithmetic.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

extern "C" __global__ void integer_stress(uint32_t* o32, uint64_t* o64, const uint32_t* a32, const uint32_t* b32,
                                          const uint64_t* a64, const uint64_t* b64, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    uint32_t a = a32[t], b = b32[t];
    uint64_t p = a64[t], q = b64[t];
    int r = 0;
    auto put = [&](uint32_t v) { o32[(size_t)n * r++ + t] = v; };
    put(a + b); put(a - b); put(a * b); put(__umulhi(a, b)); put(__mulhi((int)a, (int)b));
    put(b ? a / b : 0); put(b ? a % b : 0);
    put(b && !(a == 0x80000000u && b == ~0u) ? (int)a / (int)b : 0);
    put(b && !(a == 0x80000000u && b == ~0u) ? (int)a % (int)b : 0);
    put(min(a, b)); put(max(a, b)); put(min((int)a, (int)b)); put(max((int)a, (int)b));
    put(a << (b & 31)); put(a >> (b & 31)); put((int)a >> (b & 31)); put(abs((int)a));
    put(__popc(a)); put(__clz(a)); put(__brev(a)); put(__ffs(a)); put(__byte_perm(a, b, 0x5140)); put(__byte_perm(a, b, b));
    put(__funnelshift_l(a, b, 7)); put(__funnelshift_rc(a, b, 40)); put(__sad((int)a, (int)b, 5)); put(__usad(a, b, 7));
    put(__dp4a((int)a, (int)b, 11)); put(__dp4a(a, b, 13u)); put((a >> 5) & 0x1ff); put((a & ~0xff0u) | ((b & 0xff) << 4));
    put((uint32_t)(int8_t)a); put((uint32_t)(uint16_t)a); put(a ^ b); put(~(a & b) | (a >> 1)); put(__hadd((int)a, (int)b));
    int s = 0;
    auto put64 = [&](uint64_t v) { o64[(size_t)n * s++ + t] = v; };
    put64(p + q); put64(p - q); put64(p * q); put64(__umul64hi(p, q)); put64(__mul64hi((long long)p, (long long)q));
    put64(q ? p / q : 0); put64(q ? p % q : 0); put64((uint64_t)a * b); put64((int64_t)(int)a * (int)b);
    put64(p << (b & 63)); put64(p >> (b & 63)); put64((int64_t)p >> (b & 63)); put64(__popcll(p)); put64(__clzll(p));
    put64(__brevll(p)); put64(min(p, q)); put64(max((long long)p, (long long)q)); put64(p < q ? p ^ q : p & q);
}

extern "C" __global__ void float_stress(float* of, double* od, int64_t* oi, const float* a32, const float* b32, const float* c32,
                                        const double* a64, const double* b64, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    float a = a32[t], b = b32[t], c = c32[t];
    double p = a64[t], q = b64[t];
    int r = 0;
    auto put = [&](float v) { of[(size_t)n * r++ + t] = v; };
    put(a + b); put(a - b); put(a * b); put(a / b); put(fmaf(a, b, c)); put(sqrtf(a)); put(__frcp_rn(a));
    put(fminf(a, b)); put(fmaxf(a, b)); put(fabsf(a)); put(-a);
    put(__fadd_rz(a, b)); put(__fadd_ru(a, b)); put(__fadd_rd(a, b)); put(__fmul_rz(a, b)); put(__fmul_ru(a, b)); put(__fmul_rd(a, b));
    put(__fmaf_rz(a, b, c)); put(__fmaf_ru(a, b, c)); put(__fmaf_rd(a, b, c));
    put(floorf(a)); put(ceilf(a)); put(truncf(a)); put(rintf(a)); put((float)p); put(__double2float_rz(p)); put(copysignf(a, b));
    put((float)(int)b); put(__uint2float_rz((unsigned)t * 0x1234567u)); put(__ll2float_rn((long long)t * 0x123456789abcdll));
    int d = 0;
    auto putd = [&](double v) { od[(size_t)n * d++ + t] = v; };
    putd(p + q); putd(p - q); putd(p * q); putd(p / q); putd(fma(p, q, 0.75)); putd(sqrt(p)); putd(fmin(p, q)); putd(fmax(p, q));
    putd(__dadd_rz(p, q)); putd(__dmul_ru(p, q)); putd(__fma_rd(p, q, 0.75)); putd(floor(p)); putd(rint(p)); putd((double)a);
    int i = 0;
    auto puti = [&](int64_t v) { oi[(size_t)n * i++ + t] = v; };
    puti(__float2int_rz(a)); puti(__float2int_rn(a)); puti(__float2int_ru(a)); puti(__float2int_rd(a)); puti(__float2uint_rz(a));
    puti(__float2ll_rn(a)); puti((int64_t)__float2ull_rz(a)); puti(__double2int_rn(p)); puti(__double2ll_rd(p)); puti((int64_t)__double2ull_ru(p));
    puti(a < b); puti(a <= b); puti(a == b); puti(a != b); puti(!(a < b)); puti(isnan(p)); puti(p >= q);
}

// Rows of 16-bit results, as raw bits. Type is __half or __nv_bfloat16.
template <typename T> __device__ void half_rows(unsigned short* out, T a, T b, T c, int t, int n) {
    int r = 0;
    auto put = [&](T v) { out[(size_t)n * r++ + t] = *(unsigned short*)&v; };
    put(__hadd_rn(a, b)); put(__hsub_rn(a, b)); put(__hmul_rn(a, b)); put(__hfma(a, b, c)); put(__hmin(a, b)); put(__hmax(a, b));
    put(__hneg(a)); put(__habs(a)); put(__hmax_nan(a, b)); put(__hfma_relu(a, b, c));
    put(__hlt(a, b) ? a : b); put(__heq(a, b) ? a : c);
}
extern "C" __global__ void f16_stress(unsigned short* out, const unsigned short* a, const unsigned short* b, const unsigned short* c, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < n) half_rows(out, *(const __half*)(a + t), *(const __half*)(b + t), *(const __half*)(c + t), t, n);
}
extern "C" __global__ void bf16_stress(unsigned short* out, const unsigned short* a, const unsigned short* b, const unsigned short* c, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t < n) half_rows(out, *(const __nv_bfloat16*)(a + t), *(const __nv_bfloat16*)(b + t), *(const __nv_bfloat16*)(c + t), t, n);
}

// Packed pairs: each row is two results.
extern "C" __global__ void packed_stress(unsigned* out, const unsigned* a, const unsigned* b, const unsigned* c, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    int r = 0;
    auto put = [&](auto v) { out[(size_t)n * r++ + t] = *(unsigned*)&v; };
    __half2 ha = *(const __half2*)(a + t), hb = *(const __half2*)(b + t), hc = *(const __half2*)(c + t);
    put(__hadd2_rn(ha, hb)); put(__hmul2_rn(ha, hb)); put(__hfma2(ha, hb, hc)); put(__hmin2(ha, hb)); put(__hmax2(ha, hb)); put(__hneg2(ha));
    __nv_bfloat162 ba = *(const __nv_bfloat162*)(a + t), bb = *(const __nv_bfloat162*)(b + t), bc = *(const __nv_bfloat162*)(c + t);
    put(__hadd2_rn(ba, bb)); put(__hmul2_rn(ba, bb)); put(__hfma2(ba, bb, bc)); put(__hmin2(ba, bb)); put(__hmax2(ba, bb)); put(__hneg2(ba));
}

extern "C" __global__ void convert_half(unsigned short* h, unsigned short* b, unsigned* pair, float* from_h, float* from_b, const float* x,
                                        const unsigned short* bits, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    __half v = __float2half_rn(x[t]);
    h[t] = *(unsigned short*)&v;
    __nv_bfloat16 w = __float2bfloat16_rn(x[t]);
    b[t] = *(unsigned short*)&w;
    __nv_bfloat162 two = __floats2bfloat162_rn(x[t], -x[t]);
    pair[t] = *(unsigned*)&two;
    from_h[t] = __half2float(*(const __half*)(bits + t));
    from_b[t] = __bfloat162float(*(const __nv_bfloat16*)(bits + t));
}

// The special function unit; row per function.
extern "C" __global__ void special_functions(float* out, const float* inp, int n) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    float x = inp[t], y;
    int r = 0;
    auto put = [&](float v) { out[(size_t)n * r++ + t] = v; };
    put(exp2f(x)); put(__log2f(x)); put(rsqrtf(x)); put(__fdividef(x, 3.0f)); put(__sinf(x)); put(__cosf(x)); put(tanhf(x));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); put(y);
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); put(y);
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); put(y);
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x)); put(y);
    put(expf(x)); put(logf(x)); put(erff(x));
}
