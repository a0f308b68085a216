/* The arithmetic of clipwise.torch on the CPU: norms, scaling and clamping over a table of tensors, each
 * read once.
 *
 * Python's limited API and no link to torch: one build serves every Python from 3.11 and every torch.
 * Free-threaded Python has a build of its own. There, too, several threads may clip at once: what is global is
 * written by bind() alone, on import, but for one hint, and a table does not change once it is made.
 *
 * The parts, each in its header: vectors and kernels, one set a vector width; threads; what a tensor is; the
 * table; the tasks.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_levels.h"
#include "_parallel.h"
#include "_tensors.h"
#include "_table.h"
#include "_tasks.h"

static int need_bind(void) {
    if (torch.types) return 0;
    PyErr_SetString(PyExc_RuntimeError, "bind() was not called");
    return -1;
}

static int order_of(double p, Order *order) {
    if (p == 1.0 || p == 2.0 || (isinf(p) && p > 0)) {
        *order = p == 1.0 ? SUM_MAGNITUDES : p == 2.0 ? SUM_SQUARES : LARGEST;
        return 0;
    }
    PyObject *value = PyFloat_FromDouble(p);
    PyErr_Format(PyExc_ValueError, "p must be 1, 2 or inf, got %R", value);
    Py_XDECREF(value);
    return -1;
}

/* A C-contiguous float64 buffer of one of two lengths. */
static int float64s(PyObject *array, const char *name, int writable, int64_t length, int64_t or_length,
                    Py_buffer *view) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(array, view, flags)) return -1;
    if (view->format && !strcmp(view->format, "d") &&
        (view->len == length * (int64_t)sizeof(double) || view->len == or_length * (int64_t)sizeof(double)))
        return 0;
    PyErr_Format(PyExc_ValueError, "%s must be %lld float64 numbers, got %zd bytes of format '%s'", name,
                 (long long)length, view->len, view->format ? view->format : "B");
    PyBuffer_Release(view);
    return -1;
}

/* Room for the results of pieces: on the stack while they are few. */
enum { FEW = 1024 };

static double *room(double *few, int64_t n) {
    double *found = n <= FEW ? few : PyMem_Malloc((size_t)n * sizeof(double));
    if (!found) PyErr_NoMemory();
    return found;
}

/* The norm of each plain tensor; those of the others stay as they are. */
static int measure(Table *table, Order order, int threads, double *out) {
    double few[FEW];
    int64_t pieces = table->pieces[table->n];
    double *parts = room(few, pieces);
    if (!parts) return -1;
    Task task = {.table = table, .order = order, .out = parts};
    run(reduce_pieces, &task, pieces, &table->extent, threads);
    for (Py_ssize_t i = 0; i < table->n; i++) {
        const Tensor *t = &table->of[i];
        if (!t->plain) continue;
        double sum = 0;
        for (int64_t item = table->pieces[i]; item < table->pieces[i + 1]; item++)
            sum = join(order, sum, parts[item]);
        out[i] = t->numel ? norm_of(order, sum, t->dtype, t->data, t->numel) : 0.0;
    }
    if (parts != few) PyMem_Free(parts);
    return 0;
}

static PyObject *table_norms(Table *table, PyObject *args) {
    double p;
    int threads;
    PyObject *array;
    Py_buffer out;
    Order order;
    if (!PyArg_ParseTuple(args, "dOi:norms", &p, &array, &threads) || order_of(p, &order)) return NULL;
    if (float64s(array, "out", 1, table->n, table->n, &out)) return NULL;
    int failed = measure(table, order, threads, out.buf);
    PyBuffer_Release(&out);
    return failed ? NULL : Py_NewRef(Py_None);
}

/* The norm of all plain tensors together. */
static PyObject *table_norm(Table *table, PyObject *args) {
    double p, few[FEW], *norms, total = 0, largest = 0;
    int threads;
    Order order;
    if (!PyArg_ParseTuple(args, "di:norm", &p, &threads) || order_of(p, &order)) return NULL;
    if (!(norms = room(few, table->n))) return NULL;
    for (Py_ssize_t i = 0; i < table->n; i++) norms[i] = 0;
    int failed = measure(table, order, threads, norms);
    for (Py_ssize_t i = 0; i < table->n; i++) largest = join(LARGEST, largest, norms[i]);
    /* Divided by the largest, so that no square leaves the range. */
    double divisor = order == SUM_SQUARES && largest > 0 && largest <= DBL_MAX ? largest : 1;
    for (Py_ssize_t i = 0; i < table->n; i++) {
        double norm = norms[i] / divisor;
        total = join(order, total, order == SUM_SQUARES ? norm * norm : norm);
    }
    if (norms != few) PyMem_Free(norms);
    if (failed) return NULL;
    return PyFloat_FromDouble(order == SUM_SQUARES ? sqrt(total) * divisor : total);
}

static PyObject *table_unit_norms(Table *table, PyObject *args) {
    double p;
    int threads;
    PyObject *array;
    Py_buffer out;
    Task task = {.table = table};
    if (!PyArg_ParseTuple(args, "dOi:unit_norms", &p, &array, &threads)) return NULL;
    if (order_of(p, &task.order)) return NULL;
    int64_t units = table->first_unit[table->n];
    if (float64s(array, "out", 1, units, units, &out)) return NULL;
    task.out = out.buf;
    for (Py_ssize_t i = 0; i < table->n; i++)
        if (table->of[i].plain && !table->of[i].numel) task.out[table->first_unit[i]] = 0.0;
    run(units_of_pieces, &task, table->unit_pieces[table->n], &table->unit_extent, threads);
    PyBuffer_Release(&out);
    Py_RETURN_NONE;
}

static PyObject *table_scale(Table *table, PyObject *args) {
    int threads;
    PyObject *array;
    Py_buffer coefficients;
    if (!PyArg_ParseTuple(args, "Oi:scale_", &array, &threads)) return NULL;
    if (float64s(array, "coefficients", 0, table->n, 1, &coefficients)) return NULL;
    Task task = {.table = table, .coefficients = coefficients.buf};
    task.one_for_all = coefficients.len == sizeof(double);
    int idle = task.one_for_all && task.coefficients[0] == 1.0;
    if (!idle) run(scale_pieces, &task, table->pieces[table->n], &table->extent, threads);
    PyBuffer_Release(&coefficients);
    Py_RETURN_NONE;
}

static PyObject *table_multiply(Table *table, PyObject *args) {
    double coefficient;
    int threads;
    if (!PyArg_ParseTuple(args, "di:multiply_", &coefficient, &threads)) return NULL;
    Task task = {.table = table, .coefficients = &coefficient, .one_for_all = 1};
    if (coefficient != 1.0) run(scale_pieces, &task, table->pieces[table->n], &table->extent, threads);
    Py_RETURN_NONE;
}

static PyObject *table_scale_units(Table *table, PyObject *args) {
    int threads;
    PyObject *array;
    Py_buffer coefficients;
    int64_t units = table->first_unit[table->n];
    if (!PyArg_ParseTuple(args, "Oi:scale_units_", &array, &threads)) return NULL;
    if (float64s(array, "coefficients", 0, units, units, &coefficients)) return NULL;
    Task task = {.table = table, .coefficients = coefficients.buf};
    run(units_of_pieces, &task, table->unit_pieces[table->n], &table->unit_extent, threads);
    PyBuffer_Release(&coefficients);
    Py_RETURN_NONE;
}

/* The bounds of each tensor, as its dtype holds them; those of a negated view are turned round. */
static int bounds_of(const Table *table, double low, double high, double *bounds) {
    for (Py_ssize_t i = 0; i < table->n; i++) {
        const Tensor *t = &table->of[i];
        if (!t->plain) continue;
        int negated = low == -high ? 0 : is_negated(PyTuple_GetItem(table->tensors, i));
        if (negated < 0) return -1;
        bounds[2 * i] = held(negated ? -high : low, t->dtype, 0);
        bounds[2 * i + 1] = held(negated ? -low : high, t->dtype, 1);
    }
    return 0;
}

static PyObject *table_clamp(Table *table, PyObject *args) {
    double low, high;
    int threads, sums, keep = 0;
    PyObject *array;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "ddOip|p:clamp_", &low, &high, &array, &threads, &sums, &keep)) return NULL;
    if (isnan(low) || isnan(high)) {
        PyErr_SetString(PyExc_ValueError, "bounds must be numbers, got nan");
        return NULL;
    }
    if (float64s(array, "out", 1, 3 * table->n, 3 * table->n, &out)) return NULL;
    int64_t pieces = table->pieces[table->n];
    double few[FEW], *bounds = room(few, 2 * table->n + 3 * pieces);
    int failed = !bounds || bounds_of(table, low, high, bounds);
    if (!failed) {
        Task task = {
            .table = table, .out = bounds + 2 * table->n, .bounds = bounds, .sums = sums, .keep = keep,
        };
        run(clamp_pieces, &task, pieces, &table->extent, threads);
        for (Py_ssize_t i = 0; i < table->n; i++) {
            if (!table->of[i].plain) continue;
            double *found = (double *)out.buf + 3 * i;
            found[0] = found[1] = found[2] = 0;
            for (int64_t item = table->pieces[i]; item < table->pieces[i + 1]; item++)
                for (int k = 0; k < 3; k++) found[k] += task.out[3 * item + k];
        }
    }
    if (bounds && bounds != few) PyMem_Free(bounds);
    PyBuffer_Release(&out);
    return failed ? NULL : Py_NewRef(Py_None);
}

static int append_number(PyObject *list, Py_ssize_t number) {
    PyObject *value = PyLong_FromSsize_t(number);
    int failed = !value || PyList_Append(list, value);
    Py_XDECREF(value);
    return failed;
}

static PyObject *places(const Table *table, int by_unit) {
    PyObject *found = PyList_New(0);
    for (Py_ssize_t i = 0; found && i < table->n; i++) {
        if (by_unit ? table->of[i].by_unit : table->of[i].plain) continue;
        if (append_number(found, i)) Py_CLEAR(found);
    }
    return found;
}

static PyObject *table_odd(Table *table, void *unused) { return places(table, 0); }

static PyObject *table_odd_units(Table *table, void *unused) { return places(table, 1); }

static PyObject *table_unit_counts(Table *table, void *unused) {
    PyObject *found = PyList_New(table->n);
    for (Py_ssize_t i = 0; found && i < table->n; i++) {
        PyObject *count = PyLong_FromLongLong(table->of[i].units);
        if (!count || PyList_SetItem(found, i, count)) Py_CLEAR(found);
    }
    return found;
}

static PyObject *table_doubles(Table *table, void *unused) {
    int any = 0;
    for (Py_ssize_t i = 0; i < table->n; i++) any |= table->of[i].plain && table->of[i].dtype == F64;
    return PyBool_FromLong(any);
}

static PyObject *table_entries(Table *table, void *unused) {
    int64_t entries = 0;
    for (Py_ssize_t i = 0; i < table->n; i++) entries += table->of[i].numel;
    return PyLong_FromLongLong(entries);
}

static PyTypeObject *table_type;

static PyObject *table_of(PyTypeObject *type, PyObject *tensors) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Table *table = (Table *)allocate(type, 0);
    if (table && fill(table, tensors)) Py_CLEAR(table);
    return (PyObject *)table;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *given;
    if (keywords && PyDict_Size(keywords)) {
        PyErr_SetString(PyExc_TypeError, "Table takes no keyword arguments");
        return NULL;
    }
    if (need_bind() || !PyArg_ParseTuple(args, "O:Table", &given)) return NULL;
    PyObject *tensors = PySequence_Tuple(given);
    if (!tensors) return NULL;
    PyObject *table = table_of(type, tensors);
    Py_DECREF(tensors);
    return table;
}

static void table_free(Table *table) {
    PyTypeObject *type = Py_TYPE((PyObject *)table);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyMem_Free(table->of);
    Py_XDECREF(table->tensors);
    release(table);
    Py_DECREF(type);
}

static PyMethodDef table_methods[] = {
    {"norm", (PyCFunction)table_norm, METH_VARARGS, "norm(p, threads)"},
    {"norms", (PyCFunction)table_norms, METH_VARARGS, "norms(p, out, threads)"},
    {"unit_norms", (PyCFunction)table_unit_norms, METH_VARARGS, "unit_norms(p, out, threads)"},
    {"scale_", (PyCFunction)table_scale, METH_VARARGS, "scale_(coefficients, threads)"},
    {"multiply_", (PyCFunction)table_multiply, METH_VARARGS, "multiply_(coefficient, threads)"},
    {"scale_units_", (PyCFunction)table_scale_units, METH_VARARGS, "scale_units_(coefficients, threads)"},
    {"clamp_", (PyCFunction)table_clamp, METH_VARARGS, "clamp_(low, high, out, threads, sums, keep=False)"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef table_attributes[] = {
    {"odd", (getter)table_odd, NULL, "Places of the tensors that are passed over.", NULL},
    {"odd_units", (getter)table_odd_units, NULL, "Those that are passed over by unit.", NULL},
    {"unit_counts", (getter)table_unit_counts, NULL, "How many units each tensor has.", NULL},
    {"entries", (getter)table_entries, NULL, "How many entries those have that are not passed over.", NULL},
    {"has_float64", (getter)table_doubles, NULL, "Whether squares may leave the range of their sum.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, "Tensors by their addresses, which must not move while it is used."},
    {Py_tp_new, table_new},
    {Py_tp_dealloc, table_free},
    {Py_tp_methods, table_methods},
    {Py_tp_getset, table_attributes},
    {0, NULL},
};

static PyType_Spec table_spec = {
    "clipwise.torch.engines._native.Table", sizeof(Table), 0, Py_TPFLAGS_DEFAULT, table_slots,
};

/* Which objects were met before, by their addresses: room for twice as many as there are. */
typedef struct {
    void **of;
    size_t mask;
} Met;

static int met_before(Met *met, void *object) {
    size_t at = ((uintptr_t)object >> 4) & met->mask;
    for (; met->of[at]; at = (at + 1) & met->mask)
        if (met->of[at] == object) return 1;
    met->of[at] = object;
    return 0;
}

static int met_room(Met *met, Py_ssize_t n) {
    size_t size = 4;
    while (size < 2 * (size_t)n) size *= 2;
    met->mask = size - 1;
    if ((met->of = PyMem_Calloc(size, sizeof(void *)))) return 0;
    PyErr_NoMemory();
    return -1;
}

static PyObject *grad; /* the name, interned */

/* Appends the gradients of those parameters that have one, each parameter once; if any is left out, the places
 * of the others. */
static int gradients_of(PyObject *parameters, PyObject *gradients, PyObject **found_at, Met *met) {
    Py_ssize_t n = PyTuple_Size(parameters);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *parameter = PyTuple_GetItem(parameters, i);
        PyObject *gradient = PyObject_GetAttr(parameter, grad);
        if (!gradient) return -1;
        int failed = 0, left_out = gradient == Py_None || met_before(met, parameter);
        if (left_out && !*found_at) {
            *found_at = PyList_New(0);
            failed = !*found_at;
            for (Py_ssize_t k = 0; !failed && k < i; k++) failed = append_number(*found_at, k);
        } else if (!left_out) {
            failed = PyList_Append(gradients, gradient) || (*found_at && append_number(*found_at, i));
        }
        Py_DECREF(gradient);
        if (failed) return -1;
    }
    return 0;
}

static PyObject *gather(PyObject *module, PyObject *given) {
    PyObject *parameters = need_bind() ? NULL : PySequence_Tuple(given);
    PyObject *gradients = PyList_New(0), *found_at = NULL, *tensors = NULL, *table = NULL, *answer = NULL;
    Met met = {NULL, 0};
    if (parameters && gradients && !met_room(&met, PyTuple_Size(parameters)) &&
        !gradients_of(parameters, gradients, &found_at, &met) &&
        (tensors = PyList_AsTuple(gradients)) && (table = table_of(table_type, tensors)))
        answer = PyTuple_Pack(3, gradients, found_at ? found_at : Py_None, table);
    PyMem_Free(met.of);
    Py_XDECREF(parameters);
    Py_XDECREF(gradients);
    Py_XDECREF(found_at);
    Py_XDECREF(tensors);
    Py_XDECREF(table);
    return answer;
}

static PyObject *bind(PyObject *module, PyObject *args) {
    PyObject *capsule, *types, *dtypes, *strided, *is_neg;
    if (!PyArg_ParseTuple(args, "OO!O!OO:bind", &capsule, &PyTuple_Type, &types, &PyTuple_Type, &dtypes,
                          &strided, &is_neg))
        return NULL;
    if (PyTuple_Size(dtypes) != DTYPES) {
        PyErr_Format(PyExc_ValueError, "dtypes must be float32, float64, float16, bfloat16, got %R", dtypes);
        return NULL;
    }
    const DLExchange *exchange = NULL;
    if (capsule != Py_None && !(exchange = PyCapsule_GetPointer(capsule, "dlpack_exchange_api"))) return NULL;
    if (exchange && (exchange->version.major != 1 || !exchange->describe)) exchange = NULL;
    PyObject *fresh[] = {types, dtypes, strided, is_neg};
    PyObject **kept[] = {&torch.types, &torch.dtypes, &torch.strided, &torch.is_neg};
    for (int i = 0; i < 4; i++) {
        PyObject *old = *kept[i];
        *kept[i] = Py_NewRef(fresh[i]);
        Py_XDECREF(old);
    }
    torch.exchange = exchange;
    find_team(); /* torch has loaded its runtime by now */
    return PyBool_FromLong(exchange != NULL);
}

static PyObject *level_name(PyObject *module, PyObject *unused) { return PyUnicode_FromString(level->name); }

static PyObject *level_names(PyObject *module, PyObject *unused) {
    int n = levels_here();
    PyObject *found = PyList_New(n);
    for (int i = 0; found && i < n; i++) {
        PyObject *name = PyUnicode_FromString(LEVELS[i]->name);
        if (!name || PyList_SetItem(found, i, name)) Py_CLEAR(found);
    }
    return found;
}

static PyObject *use(PyObject *module, PyObject *name) {
    for (int i = 0; i < levels_here(); i++)
        if (PyUnicode_Check(name) && !PyUnicode_CompareWithASCIIString(name, LEVELS[i]->name)) {
            level = LEVELS[i];
            Py_RETURN_NONE;
        }
    PyObject *names = level_names(module, NULL);
    if (names) PyErr_Format(PyExc_ValueError, "level must be one of %R, got %R", names, name);
    Py_XDECREF(names);
    return NULL;
}

static PyMethodDef functions[] = {
    {"bind", bind, METH_VARARGS, "bind(capsule, types, dtypes, strided, is_neg): make torch known"},
    {"gather", gather, METH_O, "gather(parameters): their gradients, places and table"},
    {"level", level_name, METH_NOARGS, "level(): the vector width in use"},
    {"levels", level_names, METH_NOARGS, "levels(): those this processor has, lowest first"},
    {"use", use, METH_O, "use(level): use another one"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Norms, scaling and clamping over a table of tensors.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) {
    level = LEVELS[levels_here() - 1];
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    grad = PyUnicode_InternFromString("grad");
    table_type = (PyTypeObject *)PyType_FromSpec(&table_spec);
    if (!grad || !table_type || PyModule_AddObjectRef(module, "Table", (PyObject *)table_type)) Py_CLEAR(module);
    return module;
}
