/* The same kernels at every vector width this build has, and which of them this processor can run.
 *
 * On x86-64 with gcc or clang: SSE2, which every such processor has, AVX2 and AVX-512, chosen at run time.
 * Elsewhere the compiler's own vectors of two doubles (NEON on arm64); with other compilers plain C.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { F32, F64, F16, BF16, DTYPES };
static const int ENTRY_BYTES[DTYPES] = {4, 8, 2, 2};

typedef struct {
    double (*sum_squares)(const void *entries, int64_t n);
    double (*sum_magnitudes)(const void *entries, int64_t n);
    double (*largest)(const void *entries, int64_t n);
    void (*scale)(void *entries, int64_t n, double coefficient);
    void (*clamp)(void *entries, int64_t n, double low, double high, double found[3]);
    void (*clamp_and_sum)(void *entries, int64_t n, double low, double high, double found[3]);
} Kernels;

typedef struct {
    const char *name;
    Kernels of[DTYPES];
} Level;

#define PASTE(a, b) PASTE_(a, b)
#define PASTE_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b) /* the same, for what becomes a name of PASTE */
#define JOIN_(a, b) a##_##b

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#define PLAIN_LANES 2
#else
#define INLINE static inline
#define PLAIN_LANES 1
#endif

enum { FLOATS_AT_ONCE = 256 }; /* that are clamped before it is asked whether any was beyond */

#include "_half.h"

#define LEVEL plain
#if defined(__aarch64__)
#define LEVEL_NAME "neon"
#else
#define LEVEL_NAME "baseline"
#endif
#define LANES PLAIN_LANES
#include "_level.h"

#if defined(__GNUC__) && defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define LEVEL avx2
#define LEVEL_NAME "avx2"
#define LANES 4
#define HAS_F16C
#include "_level.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")
#endif
#define LEVEL avx512
#define LEVEL_NAME "avx512"
#define LANES 8
#define HAS_F16C
#include "_level.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

static const Level *LEVELS[] = {&level_plain, &level_avx2, &level_avx512};

/* How many of the levels this processor can run, lowest first. The instruction itself is asked: what stands
 * behind __builtin_cpu_supports is a runtime library's, and Zig's answers no to everything. */
static int levels_here(void) {
    const unsigned avx2 = bit_FMA | bit_F16C | bit_OSXSAVE;
    const unsigned avx512 = bit_AVX512F | bit_AVX512VL | bit_AVX512BW | bit_AVX512DQ;
    unsigned a, b, c, d, kept, unused;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & avx2) != avx2) return 1;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 1;
    /* Which registers the system keeps where threads take turns: 6 are those of AVX, 0xe6 of AVX-512, too. */
    __asm__ volatile("xgetbv" : "=a"(kept), "=d"(unused) : "c"(0));
    if ((kept & 6) != 6) return 1;
    return (b & avx512) == avx512 && (kept & 0xe6) == 0xe6 ? 3 : 2;
}

#else

static const Level *LEVELS[] = {&level_plain};

static int levels_here(void) { return 1; }

#endif

static const Level *level; /* the one in use */
