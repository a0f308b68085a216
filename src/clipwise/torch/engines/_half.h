/* Half precision a number at a time: what is left at the end of a vector loop, and processors without
 * instructions for it.
 *
 * Reading is exact. Writing rounds once, to nearest, ties to even: a double is first cut to a float whose
 * last bit says whether anything was cut (rounding to odd), so that the second rounding sees a tie only
 * where there is one.
 */

static inline float float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t bits_of_odd(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits | ((bits & 0x1fffffff) + 0x1fffffff)) & ~(uint64_t)0x1fffffff;
    memcpy(&x, &bits, sizeof x);
    float cut = (float)x;
    uint32_t found;
    memcpy(&found, &cut, sizeof found);
    return found;
}

static inline double read_bf16(uint16_t x) { return float_of_bits((uint32_t)x << 16); }

static inline uint16_t write_bf16(double x) {
    uint32_t bits = bits_of_odd(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)((bits >> 16) | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__ARM_FP16_FORMAT_IEEE)

static inline double read_f16(uint16_t x) {
    __fp16 half;
    memcpy(&half, &x, sizeof half);
    return (double)(float)half;
}

static inline uint16_t write_f16(double x) {
    __fp16 half = (__fp16)float_of_bits(bits_of_odd(x));
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

#else

static inline double read_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, bits = x & 0x7fff;
    if (bits < 0x400) { /* a subnormal is a multiple of 2^-24 */
        float size = (float)bits * 0x1p-24f;
        return sign ? -size : size;
    }
    uint32_t exponent = bits < 0x7c00 ? 112u << 23 : 224u << 23; /* the largest exponent stays the largest */
    return float_of_bits(sign | ((bits << 13) + exponent));
}

static inline uint16_t write_f16(double x) {
    uint32_t bits = bits_of_odd(x), sign = (bits >> 16) & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00); /* NaN */
    if (bits >= 143u << 23) return (uint16_t)(sign | 0x7c00); /* 65536 and more: infinite */
    if (bits < 113u << 23) { /* below 2^-14: adding 1/2 lets the processor round at 2^-24 */
        float moved = float_of_bits(bits) + 0.5f;
        memcpy(&bits, &moved, sizeof bits);
        return (uint16_t)(sign | (bits - (126u << 23)));
    }
    return (uint16_t)(sign | ((bits - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13));
}

#endif
