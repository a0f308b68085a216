/* The vectors of one level, and how entries of each dtype get in and out of them.
 *
 * Included once a level with LEVEL (a suffix for names) and LANES (doubles in a vector) defined. Everything
 * is computed in double, two vectors at a time: a pair load takes 2 * LANES entries. Which entry lands in
 * which lane is the dtype's own business; the pair store is its inverse.
 */

#define doubles AT_LEVEL(doubles)
#define masks AT_LEVEL(masks)
#define floats AT_LEVEL(floats)
#define words AT_LEVEL(words)
#define ints AT_LEVEL(ints)
#define splat AT_LEVEL(splat)
#define total AT_LEVEL(total)
#define count_of AT_LEVEL(count_of)
#define magnitudes AT_LEVEL(magnitudes)
#define above AT_LEVEL(above)
#define choose AT_LEVEL(choose)
#define to_odd AT_LEVEL(to_odd)
#define widened AT_LEVEL(widened)
#define narrowed AT_LEVEL(narrowed)
#define load_f32 AT_LEVEL(load_f32)
#define load_f64 AT_LEVEL(load_f64)
#define load_f16 AT_LEVEL(load_f16)
#define load_bf16 AT_LEVEL(load_bf16)
#define store_f32 AT_LEVEL(store_f32)
#define store_f64 AT_LEVEL(store_f64)
#define store_f16 AT_LEVEL(store_f16)
#define store_bf16 AT_LEVEL(store_bf16)
#define within AT_LEVEL(within)
#define clamp_f32_by_floats AT_LEVEL(clamp_f32_by_floats)
#define clamped_bf16 AT_LEVEL(clamped_bf16)
#define clamp_bf16_by_floats AT_LEVEL(clamp_bf16_by_floats)
#define scale_bf16_by_floats AT_LEVEL(scale_bf16_by_floats)

#if LANES > 1 /* the vectors of gcc and clang */

typedef double doubles __attribute__((vector_size(8 * LANES)));
typedef int64_t masks __attribute__((vector_size(8 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

INLINE doubles splat(double x) { return x - (doubles){0}; }

INLINE double total(doubles v) {
    double sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* How many lanes of a sum of masks were set: a set lane is -1. */
INLINE int64_t count_of(masks v) {
    int64_t sum = 0;
    for (int i = 0; i < LANES; i++) sum -= v[i];
    return sum;
}

INLINE doubles magnitudes(doubles v) { return (doubles)((masks)v & INT64_MAX); }

INLINE masks above(doubles a, doubles b) { return (masks)(a > b); }

INLINE doubles choose(masks which, doubles yes, doubles no) {
    return (doubles)((which & (masks)yes) | (~which & (masks)no));
}

/* Cut to the 24 bits of a float, the last one set if anything was cut: rounding again then rounds as once. */
INLINE doubles to_odd(doubles v) {
    masks bits = (masks)v;
    return (doubles)((bits | ((bits & 0x1fffffff) + 0x1fffffff)) & ~(int64_t)0x1fffffff);
}

/* gcc cuts the widest conversions in two if they are not named. */
#if LANES == 8
INLINE floats within(floats f, floats lows, floats highs) {
    return (floats)_mm256_min_ps((__m256)highs, _mm256_max_ps((__m256)lows, (__m256)f)); /* NaN: the second */
}
INLINE doubles widened(floats f) { return (doubles)_mm512_cvtps_pd((__m256)f); }
INLINE floats narrowed(doubles d) { return (floats)_mm512_cvtpd_ps((__m512d)d); }
#elif LANES == 4
INLINE floats within(floats f, floats lows, floats highs) {
    return (floats)_mm_min_ps((__m128)highs, _mm_max_ps((__m128)lows, (__m128)f)); /* NaN: the second */
}
INLINE doubles widened(floats f) { return (doubles)_mm256_cvtps_pd((__m128)f); }
INLINE floats narrowed(doubles d) { return (floats)_mm256_cvtpd_ps((__m256d)d); }
#else
INLINE floats within(floats f, floats lows, floats highs) {
    ints up = (ints)(f > highs), down = (ints)(f < lows);
    return (floats)((up & (ints)highs) | (down & (ints)lows) | (~(up | down) & (ints)f));
}
INLINE doubles widened(floats f) { return __builtin_convertvector(f, doubles); }
INLINE floats narrowed(doubles d) { return __builtin_convertvector(d, floats); }
#endif

INLINE void load_f32(const float *x, doubles *a, doubles *b) {
    floats f, g;
    memcpy(&f, x, sizeof f);
    memcpy(&g, x + LANES, sizeof g);
    *a = widened(f);
    *b = widened(g);
}

INLINE void store_f32(float *x, doubles a, doubles b) {
    floats f = narrowed(a), g = narrowed(b);
    memcpy(x, &f, sizeof f);
    memcpy(x + LANES, &g, sizeof g);
}

/* Bounds FLOATS_AT_ONCE floats, NaN left alone; whether any was beyond. Nothing is written if none was. */
INLINE int clamp_f32_by_floats(float *x, float low, float high) {
    floats lows = low - (floats){0}, highs = high - (floats){0}, f, kept;
    ints changes = {0};
    for (int i = 0; i < FLOATS_AT_ONCE; i += LANES) {
        memcpy(&f, x + i, sizeof f);
        kept = within(f, lows, highs);
        changes |= (ints)f ^ (ints)kept;
    }
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= changes[i];
    if (any)
        for (int i = 0; i < FLOATS_AT_ONCE; i += LANES) {
            memcpy(&f, x + i, sizeof f);
            kept = within(f, lows, highs);
            memcpy(x + i, &kept, sizeof kept);
        }
    return any != 0;
}

INLINE void load_f64(const double *x, doubles *a, doubles *b) {
    memcpy(a, x, sizeof *a);
    memcpy(b, x + LANES, sizeof *b);
}

INLINE void store_f64(double *x, doubles a, doubles b) {
    memcpy(x, &a, sizeof a);
    memcpy(x + LANES, &b, sizeof b);
}

/* Two bfloat16 in each word, each of them the upper half of a float. */
INLINE void load_bf16(const uint16_t *x, doubles *a, doubles *b) {
    words w;
    memcpy(&w, x, sizeof w);
    *a = widened((floats)(w << 16));
    *b = widened((floats)(w & 0xffff0000u));
}

/* To nearest, ties to even. A NaN overflows into nothing: it came from a bfloat16, or is NAN itself. */
INLINE void store_bf16(uint16_t *x, doubles a, doubles b) {
    words low = (words)narrowed(to_odd(a)), high = (words)narrowed(to_odd(b));
    low += ((low >> 16) & 1) + 0x7fff;
    high += ((high >> 16) & 1) + 0x7fff;
    words w = (low >> 16) | (high & 0xffff0000u);
    memcpy(x, &w, sizeof w);
}

/* A pair times a float, rounded to float and then as above, which is what torch does. A NaN of a bfloat16 ends
 * in zeros, and so does the product of one: it cannot overflow either. */
INLINE void scale_bf16_by_floats(uint16_t *x, float c) {
    words w;
    memcpy(&w, x, sizeof w);
    words low = (words)((floats)(w << 16) * c), high = (words)((floats)(w & 0xffff0000u) * c);
    low += ((low >> 16) & 1) + 0x7fff;
    high += ((high >> 16) & 1) + 0x7fff;
    w = (low >> 16) | (high & 0xffff0000u);
    memcpy(x, &w, sizeof w);
}

INLINE words clamped_bf16(words w, floats lows, floats highs) {
    words low = (words)within((floats)(w << 16), lows, highs);
    words high = (words)within((floats)(w & 0xffff0000u), lows, highs);
    return (low >> 16) | (high & 0xffff0000u);
}

/* As clamp_f32_by_floats: bounds that a bfloat16 holds need no rounding. */
INLINE int clamp_bf16_by_floats(uint16_t *x, float low, float high) {
    floats lows = low - (floats){0}, highs = high - (floats){0};
    words w, kept, changes = {0};
    for (int i = 0; i < FLOATS_AT_ONCE; i += 2 * LANES) {
        memcpy(&w, x + i, sizeof w);
        changes |= w ^ clamped_bf16(w, lows, highs);
    }
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= changes[i] != 0;
    if (any)
        for (int i = 0; i < FLOATS_AT_ONCE; i += 2 * LANES) {
            memcpy(&w, x + i, sizeof w);
            kept = clamped_bf16(w, lows, highs);
            memcpy(x + i, &kept, sizeof kept);
        }
    return any;
}

#else /* plain C, one entry at a time */

typedef double doubles;
typedef int64_t masks;

INLINE doubles splat(double x) { return x; }
INLINE double total(doubles v) { return v; }
INLINE int64_t count_of(masks v) { return -v; }
INLINE doubles magnitudes(doubles v) { return fabs(v); }
INLINE masks above(doubles a, doubles b) { return -(int64_t)(a > b); }
INLINE doubles choose(masks which, doubles yes, doubles no) { return which ? yes : no; }

INLINE void load_f32(const float *x, doubles *a, doubles *b) { *a = x[0], *b = x[1]; }
INLINE void store_f32(float *x, doubles a, doubles b) { x[0] = (float)a, x[1] = (float)b; }
INLINE int clamp_f32_by_floats(float *x, float low, float high) {
    int any = 0;
    for (int i = 0; i < FLOATS_AT_ONCE; i++)
        if (x[i] > high || x[i] < low) x[i] = x[i] > high ? high : low, any = 1;
    return any;
}
INLINE void load_f64(const double *x, doubles *a, doubles *b) { *a = x[0], *b = x[1]; }
INLINE void store_f64(double *x, doubles a, doubles b) { x[0] = a, x[1] = b; }

INLINE void load_bf16(const uint16_t *x, doubles *a, doubles *b) {
    *a = read_bf16(x[0]);
    *b = read_bf16(x[1]);
}

INLINE void store_bf16(uint16_t *x, doubles a, doubles b) {
    x[0] = write_bf16(a);
    x[1] = write_bf16(b);
}

INLINE int clamp_bf16_by_floats(uint16_t *x, float low, float high) {
    int any = 0;
    for (int i = 0; i < FLOATS_AT_ONCE; i++) {
        float entry = (float)read_bf16(x[i]);
        if (entry > high || entry < low) x[i] = write_bf16(entry > high ? high : low), any = 1;
    }
    return any;
}

INLINE void scale_bf16_by_floats(uint16_t *x, float c) {
    for (int i = 0; i < 2; i++) x[i] = write_bf16((float)read_bf16(x[i]) * c);
}

#endif

#ifdef HAS_F16C /* the processor's own half precision, at this level */

#if LANES == 8
INLINE void load_f16(const uint16_t *x, doubles *a, doubles *b) {
    *a = (doubles)_mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x)));
    *b = (doubles)_mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + 8))));
}

INLINE void store_f16(uint16_t *x, doubles a, doubles b) {
    __m256 f = (__m256)narrowed(to_odd(a));
    __m256 g = (__m256)narrowed(to_odd(b));
    _mm_storeu_si128((__m128i *)x, _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(x + 8), _mm256_cvtps_ph(g, _MM_FROUND_TO_NEAREST_INT));
}
#else
INLINE void load_f16(const uint16_t *x, doubles *a, doubles *b) {
    *a = (doubles)_mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)x)));
    *b = (doubles)_mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(x + 4))));
}

INLINE void store_f16(uint16_t *x, doubles a, doubles b) {
    __m128 f = (__m128)narrowed(to_odd(a));
    __m128 g = (__m128)narrowed(to_odd(b));
    _mm_storel_epi64((__m128i *)x, _mm_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT));
    _mm_storel_epi64((__m128i *)(x + 4), _mm_cvtps_ph(g, _MM_FROUND_TO_NEAREST_INT));
}
#endif

#else

INLINE void load_f16(const uint16_t *x, doubles *a, doubles *b) {
    double own[2 * LANES];
    for (int i = 0; i < 2 * LANES; i++) own[i] = read_f16(x[i]);
    memcpy(a, own, sizeof *a);
    memcpy(b, own + LANES, sizeof *b);
}

INLINE void store_f16(uint16_t *x, doubles a, doubles b) {
    double own[2 * LANES];
    memcpy(own, &a, sizeof a);
    memcpy(own + LANES, &b, sizeof b);
    for (int i = 0; i < 2 * LANES; i++) x[i] = write_f16(own[i]);
}

#endif
