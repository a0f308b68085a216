/* Tensors by their addresses, and the work over them cut into pieces.
 *
 * The pieces depend on the tensors alone, never on the number of threads, and their results are put together
 * in order: so are the bits of every sum.
 */

enum { PIECE = 1 << 14 }; /* entries, a power of two: 64 KiB of float32 */

typedef struct {
    PyObject_HEAD
    PyObject *tensors; /* a tuple, so that the memory stays */
    Py_ssize_t n;
    Tensor *of;
    int64_t *pieces;      /* n + 1: where the pieces of each tensor begin, counted through */
    int64_t *unit_pieces; /* n + 1: the same by whole units */
    int64_t *first_unit;  /* n + 1: where its units begin */
    Extent extent, unit_extent;
} Table;

static int64_t units_at_once(const Tensor *t) {
    int64_t length = t->numel / t->units;
    return length >= PIECE ? 1 : PIECE / (length ? length : 1);
}

/* Which tensor an item belongs to: the last that begins at or before it and is not without any. */
static Py_ssize_t holder(const int64_t *begins, Py_ssize_t n, int64_t item) {
    Py_ssize_t low = 0, high = n;
    while (high - low > 1) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (begins[middle] <= item)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int fill(Table *table, PyObject *tensors) {
    Py_ssize_t n = PyTuple_Size(tensors);
    char *memory = PyMem_Malloc((size_t)n * sizeof(Tensor) + 3 * (size_t)(n + 1) * sizeof(int64_t));
    if (!memory) {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(tensors);
    table->tensors = tensors;
    table->n = n;
    table->of = (Tensor *)memory;
    table->pieces = (int64_t *)(memory + (size_t)n * sizeof(Tensor));
    table->unit_pieces = table->pieces + n + 1;
    table->first_unit = table->unit_pieces + n + 1;
    int64_t pieces = 0, unit_pieces = 0, units = 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        Tensor *t = &table->of[i];
        describe(PyTuple_GetItem(tensors, i), t);
        table->pieces[i] = pieces;
        table->unit_pieces[i] = unit_pieces;
        table->first_unit[i] = units;
        units += t->units;
        if (!t->numel) continue;
        pieces += (t->numel + PIECE - 1) / PIECE;
        extend(&table->extent, t->numel, ENTRY_BYTES[t->dtype]);
        if (!t->by_unit) continue;
        int64_t at_once = units_at_once(t);
        unit_pieces += (t->units + at_once - 1) / at_once;
        extend(&table->unit_extent, t->numel, ENTRY_BYTES[t->dtype]);
    }
    table->pieces[n] = pieces;
    table->unit_pieces[n] = unit_pieces;
    table->first_unit[n] = units;
    return 0;
}

/* One piece of one tensor. */
typedef struct {
    Py_ssize_t place;
    char *data;
    int64_t numel;
} Piece;

/* The tensors' pieces begin .. end - 1, one after the other: for (walk = ...; next_piece(...);) */
typedef struct {
    const Table *table;
    int64_t item, end;
    Py_ssize_t place;
} Walk;

static Walk walk_from(const Table *table, int64_t begin, int64_t end) {
    Walk walk = {table, begin, end, holder(table->pieces, table->n, begin)};
    return walk;
}

static int next_piece(Walk *walk, Piece *piece) {
    if (walk->item >= walk->end) return 0;
    const int64_t *begins = walk->table->pieces;
    while (begins[walk->place + 1] <= walk->item) walk->place++;
    const Tensor *t = &walk->table->of[walk->place];
    int64_t at = (walk->item - begins[walk->place]) * PIECE;
    piece->place = walk->place;
    piece->data = t->data + at * ENTRY_BYTES[t->dtype];
    piece->numel = t->numel - at < PIECE ? t->numel - at : PIECE;
    walk->item++;
    return 1;
}
