/* What a table can do: norms, scaling, clamping, by tensor and by unit. Nothing here touches a Python
 * object.
 */
#include <float.h>

typedef enum { SUM_MAGNITUDES, SUM_SQUARES, LARGEST } Order;

typedef struct {
    const Table *table;
    Order order;
    double *out;                /* one result a piece, three a piece for clamping, or one a unit */
    const double *coefficients; /* one for each, or one for all */
    int one_for_all;
    const double *bounds; /* low and high of each tensor */
    int sums;             /* of squares, before and after clamping */
    int keep;             /* the entries as they are: clamping is only counted and summed */
} Task;

static double reduce(Order order, int dtype, const void *data, int64_t n) {
    const Kernels *kernels = &level->of[dtype];
    return order == SUM_SQUARES      ? kernels->sum_squares(data, n)
           : order == SUM_MAGNITUDES ? kernels->sum_magnitudes(data, n)
                                     : kernels->largest(data, n);
}

static double join(Order order, double a, double b) {
    if (order != LARGEST) return a + b;
    return isnan(a) || a > b ? a : b; /* b if it is NaN: the comparison is false */
}

/* The 2-norm of float64 entries whose squares leave the range: first divided by a power of two. */
static double scaled_norm(const double *x, int64_t n) {
    double largest = level->of[F64].largest(x, n), sums[4] = {0}, factor;
    int exponent;
    if (!(largest > 0 && largest <= DBL_MAX)) return largest;
    frexp(largest, &exponent);
    exponent = exponent > 1000 ? 1000 : exponent < -1000 ? -1000 : exponent;
    factor = ldexp(1.0, -exponent);
    for (int64_t i = 0; i < n; i++) {
        double entry = x[i] * factor;
        sums[i & 3] += entry * entry;
    }
    return ldexp(sqrt((sums[0] + sums[1]) + (sums[2] + sums[3])), exponent);
}

/* The norm that a sum stands for. Only squares of float64 can leave the range of their sum. */
static double norm_of(Order order, double sum, int dtype, const void *data, int64_t n) {
    if (order != SUM_SQUARES) return sum;
    if (dtype == F64 && !(sum > 1e-280 && sum <= DBL_MAX)) return scaled_norm(data, n);
    return sqrt(sum);
}

static void reduce_pieces(void *data, int64_t begin, int64_t end) {
    Task *task = data;
    Walk walk = walk_from(task->table, begin, end);
    Piece piece;
    for (int64_t item = begin; next_piece(&walk, &piece); item++)
        task->out[item] = reduce(task->order, task->table->of[piece.place].dtype, piece.data, piece.numel);
}

static void scale_pieces(void *data, int64_t begin, int64_t end) {
    Task *task = data;
    Walk walk = walk_from(task->table, begin, end);
    Piece piece;
    while (next_piece(&walk, &piece)) {
        double coefficient = task->coefficients[task->one_for_all ? 0 : piece.place];
        if (coefficient != 1.0)
            level->of[task->table->of[piece.place].dtype].scale(piece.data, piece.numel, coefficient);
    }
}

/* As clamp_and_sum, of a copy that stays in the cache. */
static void clamp_copy(const Kernels *kernels, size_t bytes, Piece piece, const double *bounds, double found[3]) {
    double copy[1024];
    for (int64_t at = 0; at < piece.numel; at += 1024) {
        int64_t part = piece.numel - at < 1024 ? piece.numel - at : 1024;
        memcpy(copy, (const char *)piece.data + at * bytes, part * bytes);
        kernels->clamp_and_sum(copy, part, bounds[0], bounds[1], found);
    }
}

static void clamp_pieces(void *data, int64_t begin, int64_t end) {
    Task *task = data;
    Walk walk = walk_from(task->table, begin, end);
    Piece piece;
    for (int64_t item = begin; next_piece(&walk, &piece); item++) {
        const double *bounds = task->bounds + 2 * piece.place;
        double *found = task->out + 3 * item;
        found[0] = found[1] = found[2] = 0;
        int dtype = task->table->of[piece.place].dtype;
        const Kernels *kernels = &level->of[dtype];
        if (task->keep) {
            clamp_copy(kernels, ENTRY_BYTES[dtype], piece, bounds, found);
            continue;
        }
        (task->sums ? kernels->clamp_and_sum : kernels->clamp)(piece.data, piece.numel, bounds[0], bounds[1], found);
    }
}

static double unit_norm(Order order, int dtype, const char *data, int64_t n) {
    double sum = reduce(order, dtype, data, n < PIECE ? n : PIECE);
    for (int64_t at = PIECE; at < n; at += PIECE) {
        int64_t part = n - at < PIECE ? n - at : PIECE;
        sum = join(order, sum, reduce(order, dtype, data + at * ENTRY_BYTES[dtype], part));
    }
    return norm_of(order, sum, dtype, data, n);
}

/* Measures or scales, as there are coefficients or not. */
static void units_of_pieces(void *data, int64_t begin, int64_t end) {
    Task *task = data;
    const Table *table = task->table;
    Py_ssize_t place = holder(table->unit_pieces, table->n, begin);
    for (int64_t item = begin; item < end; item++) {
        while (table->unit_pieces[place + 1] <= item) place++;
        const Tensor *t = &table->of[place];
        int64_t at_once = units_at_once(t), length = t->numel / t->units;
        int64_t unit = (item - table->unit_pieces[place]) * at_once;
        int64_t stop = unit + at_once < t->units ? unit + at_once : t->units;
        for (; unit < stop; unit++) {
            char *entries = t->data + unit * length * ENTRY_BYTES[t->dtype];
            int64_t at = table->first_unit[place] + unit;
            if (!task->coefficients)
                task->out[at] = unit_norm(task->order, t->dtype, entries, length);
            else if (task->coefficients[at] != 1.0)
                level->of[t->dtype].scale(entries, length, task->coefficients[at]);
        }
    }
}

/* A bound as the dtype can hold it; one that is beyond every finite value bounds nothing finite. */
static double held(double bound, int dtype, int is_high) {
    static const double MOST[DTYPES] = {FLT_MAX, DBL_MAX, 65504.0, 0x1.fep127};
    double most = MOST[dtype];
    if (bound > most) return is_high ? INFINITY : most;
    if (bound < -most) return is_high ? -most : -INFINITY;
    return dtype == F32   ? (double)(float)bound
           : dtype == F16 ? read_f16(write_f16(bound))
           : dtype == BF16 ? read_bf16(write_bf16(bound))
                           : bound;
}
