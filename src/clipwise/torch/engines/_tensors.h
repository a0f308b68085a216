/* What there is to know of a tensor: where its entries lie, how many, of which dtype.
 *
 * Torch exposes DLPack's exchange table (2.10 and later), whose functions need nanoseconds; otherwise its
 * Python attributes are asked. Both give the same.
 */

/* From dlpack.h, version 1.3; the layout is fixed within major version 1. */
typedef struct {
    void *data;
    struct {
        int32_t type, index;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    struct {
        uint32_t major, minor;
    } version;
    void *previous;
    void *allocate, *export_managed, *import_managed;
    int (*describe)(void *tensor, DLTensor *out); /* dltensor_from_py_object_no_sync */
    void *current_stream;
} DLExchange;

enum { DL_CPU = 1, DL_FLOAT = 2, DL_BFLOAT = 4 };

enum { MOST_AXES = 64 };

typedef struct {
    char *data;
    int64_t numel, units;
    int8_t dtype;
    int8_t plain;    /* on the CPU, of one of our dtypes, its entries one block of memory */
    int8_t by_unit;  /* and each slice along axis 0 one block, in order */
} Tensor;

/* Given once by bind. */
static struct {
    const DLExchange *exchange;
    PyObject *types, *dtypes, *strided, *is_neg;
    int layout_first; /* an exchange has failed before: asking for the layout is cheaper than failing again;
                       * a hint: without a GIL several threads may set it, and all to 1 */
} torch;

static int is_dense(int ndim, const int64_t *shape, const int64_t *strides) {
    int64_t expected = 1;
    int axis = ndim - 1, left = 0;
    for (; axis >= 0; axis--)
        if (shape[axis] != 1) {
            if (strides[axis] != expected) break;
            expected *= shape[axis];
        }
    if (axis < 0) return 1;
    /* Another order of the axes: each in turn must begin where the ones before it end. */
    for (axis = 0, expected = 1; axis < ndim; axis++) left += shape[axis] != 1;
    for (; left; left--) {
        for (axis = 0; axis < ndim; axis++)
            if (shape[axis] != 1 && strides[axis] == expected) break;
        if (axis == ndim) return 0;
        expected *= shape[axis];
    }
    return 1;
}

static void lay_out(Tensor *t, int ndim, const int64_t *shape, const int64_t *strides, void *data) {
    t->numel = 1;
    for (int axis = 0; axis < ndim; axis++) t->numel *= shape[axis];
    t->units = ndim > 1 && t->numel > 0 ? shape[0] : 1;
    t->data = data;
    if (t->dtype < 0 || ndim > MOST_AXES) return;
    if (t->numel == 0) {
        t->plain = t->by_unit = 1;
    } else if (data && is_dense(ndim, shape, strides)) {
        t->plain = 1;
        t->by_unit = t->units == 1 || strides[0] == t->numel / shape[0];
    }
}

static int by_exchange(PyObject *tensor, Tensor *t) {
    DLTensor found;
    memset(&found, 0, sizeof found);
    if (torch.exchange->describe(tensor, &found)) return -1;
    if (found.ndim < 0 || (found.ndim && (!found.shape || !found.strides))) return 0;
    if (found.device.type == DL_CPU && found.dtype.lanes == 1) {
        int bits = found.dtype.bits;
        if (found.dtype.code == DL_FLOAT)
            t->dtype = bits == 32 ? F32 : bits == 64 ? F64 : bits == 16 ? F16 : -1;
        if (found.dtype.code == DL_BFLOAT && bits == 16) t->dtype = BF16;
    }
    if (found.data) found.data = (char *)found.data + found.byte_offset;
    lay_out(t, found.ndim, found.shape, found.strides, found.data);
    return 0;
}

/* The numbers of a tuple, and gives it back; -1 if it is none or too long. */
static int numbers_of(PyObject *tuple, int64_t *out) {
    Py_ssize_t n = tuple && PyTuple_Check(tuple) ? PyTuple_Size(tuple) : -1;
    if (n > MOST_AXES) n = -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        out[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
        if (out[i] == -1 && PyErr_Occurred()) n = -1;
    }
    Py_XDECREF(tuple);
    return (int)n;
}

static int is_strided(PyObject *tensor) {
    PyObject *layout = PyObject_GetAttrString(tensor, "layout");
    Py_XDECREF(layout); /* there are only a few, which live for ever */
    return layout == torch.strided;
}

static int by_attributes(PyObject *tensor, Tensor *t) {
    int64_t shape[MOST_AXES], strides[MOST_AXES];
    int ndim = numbers_of(PyObject_GetAttrString(tensor, "shape"), shape);
    if (ndim < 0) return -1;
    PyObject *on_cpu = PyObject_GetAttrString(tensor, "is_cpu");
    PyObject *dtype = PyObject_GetAttrString(tensor, "dtype");
    if (on_cpu == Py_True && is_strided(tensor))
        for (int i = 0; i < DTYPES; i++)
            if (PyTuple_GetItem(torch.dtypes, i) == dtype) t->dtype = (int8_t)i;
    Py_XDECREF(on_cpu);
    Py_XDECREF(dtype);
    void *data = NULL;
    if (t->dtype >= 0) {
        if (numbers_of(PyObject_CallMethod(tensor, "stride", NULL), strides) != ndim) return -1;
        PyObject *pointer = PyObject_CallMethod(tensor, "data_ptr", NULL);
        if (!pointer) return -1;
        data = PyLong_AsVoidPtr(pointer);
        Py_DECREF(pointer);
    }
    lay_out(t, ndim, shape, strides, data);
    return PyErr_Occurred() ? -1 : 0;
}

/* Units of a tensor that is left to another engine; 1 for what has no shape. */
static int64_t odd_units(PyObject *tensor) {
    int64_t shape[MOST_AXES];
    int ndim = numbers_of(PyObject_GetAttrString(tensor, "shape"), shape);
    PyErr_Clear();
    if (ndim < 2) return 1;
    for (int axis = 0; axis < ndim; axis++)
        if (shape[axis] == 0) return 1;
    return shape[0];
}

/* Never fails: what cannot be described is not plain. */
static void describe(PyObject *tensor, Tensor *t) {
    memset(t, 0, sizeof *t);
    t->dtype = -1;
    PyObject *type = (PyObject *)Py_TYPE(tensor);
    int known = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(torch.types); i++)
        known |= PyTuple_GetItem(torch.types, i) == type;
    if (known && !(torch.exchange && torch.layout_first && !is_strided(tensor))) {
        int failed = torch.exchange ? by_exchange(tensor, t) : by_attributes(tensor, t);
        if (failed) {
            t->plain = 0;
            torch.layout_first = 1;
        }
        PyErr_Clear();
    }
    if (!t->plain) {
        t->by_unit = 0;
        t->numel = 0;
        t->units = odd_units(tensor);
    }
}

/* Whether the memory holds the entries with their signs turned, as some views of imaginary parts do. */
static int is_negated(PyObject *tensor) {
    PyObject *answer = PyObject_CallFunctionObjArgs(torch.is_neg, tensor, NULL);
    Py_XDECREF(answer);
    return answer ? answer == Py_True : -1;
}
