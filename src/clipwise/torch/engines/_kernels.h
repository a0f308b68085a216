/* The loops for one dtype at one level.
 *
 * Included once for each with DTYPE (f32, f64, f16, bf16), ENTRY (how it is stored), BITS (a signed integer
 * as wide), LARGEST_BITS (all of them but the sign), READ and WRITE (one entry as a double) defined. Sums
 * are float64, in eight vectors. SCALE_BY_FLOATS and CLAMP_BY_FLOATS are defined for a dtype so short that floats
 * do for that.
 */

#define KERNEL(name) AT_LEVEL(PASTE(name, DTYPE))
#define LOAD JOIN(load, DTYPE)
#define STORE JOIN(store, DTYPE)
#define PAIR (2 * LANES)

static double KERNEL(sum_squares)(const void *entries, int64_t n) {
    const ENTRY *x = entries;
    doubles s[8] = {{0}}, a, b;
    int64_t i = 0;
    for (; i + 4 * PAIR <= n; i += 4 * PAIR)
        for (int j = 0; j < 4; j++) {
            LOAD(x + i + j * PAIR, &a, &b);
            s[2 * j] += a * a;
            s[2 * j + 1] += b * b;
        }
    for (; i + PAIR <= n; i += PAIR) {
        LOAD(x + i, &a, &b);
        s[0] += a * a;
        s[1] += b * b;
    }
    double sum = total(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
    for (; i < n; i++) {
        double entry = READ(x[i]);
        sum += entry * entry;
    }
    return sum;
}

static double KERNEL(sum_magnitudes)(const void *entries, int64_t n) {
    const ENTRY *x = entries;
    doubles s[8] = {{0}}, a, b;
    int64_t i = 0;
    for (; i + 4 * PAIR <= n; i += 4 * PAIR)
        for (int j = 0; j < 4; j++) {
            LOAD(x + i + j * PAIR, &a, &b);
            s[2 * j] += magnitudes(a);
            s[2 * j + 1] += magnitudes(b);
        }
    for (; i + PAIR <= n; i += PAIR) {
        LOAD(x + i, &a, &b);
        s[0] += magnitudes(a);
        s[1] += magnitudes(b);
    }
    double sum = total(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
    for (; i < n; i++) sum += fabs(READ(x[i]));
    return sum;
}

/* Magnitudes are ordered as their bits are, and NaN is above infinity: the largest is NaN if any entry is. */
static double KERNEL(largest)(const void *entries, int64_t n) {
    const BITS *x = entries;
    BITS best = 0;
    for (int64_t i = 0; i < n; i++) {
        BITS size = x[i] & LARGEST_BITS;
        best = size > best ? size : best;
    }
    ENTRY entry;
    memcpy(&entry, &best, sizeof entry);
    return READ(entry);
}

static void KERNEL(scale)(void *entries, int64_t n, double coefficient) {
    ENTRY *x = entries;
    if (isnan(coefficient)) coefficient = NAN; /* without a payload: see store_bf16 */
#ifdef SCALE_BY_FLOATS
    if (!(fabs(coefficient) < 0x1p-100)) { /* which a float would not hold with all its digits */
        float own = (float)coefficient;
        int64_t at = 0;
        for (; at + PAIR <= n; at += PAIR) SCALE_BY_FLOATS(x + at, own);
        for (; at < n; at++) x[at] = WRITE((float)READ(x[at]) * own);
        return;
    }
#endif
    doubles c = splat(coefficient), a, b;
    int64_t i = 0;
    for (; i + PAIR <= n; i += PAIR) {
        LOAD(x + i, &a, &b);
        STORE(x + i, a * c, b * c);
    }
    for (; i < n; i++) x[i] = WRITE(READ(x[i]) * coefficient);
}

/* Bounds that this dtype holds. Adds to found: entries beyond and, if asked, sums of squares before and after. */
INLINE void KERNEL(bound)(void *entries, int64_t n, double low, double high, double found[3], int sums) {
    enum { BLOCK = 64 }; /* entries; a block without one beyond is not written */
    ENTRY *x = entries;
    doubles lows = splat(low), highs = splat(high), before = {0}, after = {0}, a, b;
    int64_t i = 0, beyond = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        doubles own = {0}, other = {0};
        masks hits = {0}, more = {0};
        for (int j = 0; j < BLOCK; j += PAIR) {
            LOAD(x + i + j, &a, &b);
            if (sums) {
                own += a * a;
                other += b * b;
            }
            hits += above(a, highs) | above(lows, a);
            more += above(b, highs) | above(lows, b);
        }
        if (sums) {
            own += other;
            before += own;
        }
        int64_t count = count_of(hits + more);
        if (count) {
            beyond += count;
            if (sums) own = splat(0);
            for (int j = 0; j < BLOCK; j += PAIR) {
                LOAD(x + i + j, &a, &b);
                a = choose(above(a, highs), highs, a);
                b = choose(above(b, highs), highs, b);
                a = choose(above(lows, a), lows, a);
                b = choose(above(lows, b), lows, b);
                STORE(x + i + j, a, b);
                if (sums) own += a * a + b * b;
            }
        }
        if (sums) after += own;
    }
    if (sums) {
        found[1] += total(before);
        found[2] += total(after);
    }
    for (; i < n; i++) {
        double entry = READ(x[i]);
        if (sums) found[1] += entry * entry;
        if (entry > high || entry < low) {
            beyond++;
            entry = entry > high ? high : entry;
            entry = entry < low ? low : entry;
            x[i] = WRITE(entry);
        }
        if (sums) found[2] += entry * entry;
    }
    found[0] += (double)beyond;
}

/* Of the counts only this is sure: 0 if nothing was beyond, and more if anything was. */
static void KERNEL(clamp)(void *entries, int64_t n, double low, double high, double found[3]) {
    int64_t done = 0;
#ifdef CLAMP_BY_FLOATS
    for (; done + FLOATS_AT_ONCE <= n; done += FLOATS_AT_ONCE)
        found[0] += CLAMP_BY_FLOATS((ENTRY *)entries + done, (float)low, (float)high);
#endif
    KERNEL(bound)((ENTRY *)entries + done, n - done, low, high, found, 0);
}

static void KERNEL(clamp_and_sum)(void *entries, int64_t n, double low, double high, double found[3]) {
    KERNEL(bound)(entries, n, low, high, found, 1);
}

#undef KERNEL
#undef LOAD
#undef STORE
#undef PAIR
#undef DTYPE
#undef ENTRY
#undef BITS
#undef LARGEST_BITS
#undef READ
#undef WRITE
#undef SCALE_BY_FLOATS
#undef CLAMP_BY_FLOATS
