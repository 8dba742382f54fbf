/* What the compiled kernels share: arguments as typed arrays.
 *
 * Everything works on flat arrays: one UTF-8 buffer or token array for a batch of N documents, and an offset array
 * int64[N+1] that says where each begins and ends. Callers allocate outputs. Every index that comes from outside is
 * checked before it is used.
 */
#ifndef MEGATRON_SRP_ARRAYS_H
#define MEGATRON_SRP_ARRAYS_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;

#define COUNT(buffer, type) ((int64_t)((buffer).len / (Py_ssize_t)sizeof(type)))

/* A converter of PyArg_ParseTuple's "O&": the argument as a contiguous array of integers of `size` bytes, whose format
 * is one of `formats` (struct's letters). An empty argument has no items, and so fits any kind. */
static int get_array(PyObject *object, void *address, Py_ssize_t size, const char *formats, const char *kind, int flags) {
    Py_buffer *buffer = address;
    if (!object) { /* a later argument was wrong: give this one back */
        PyBuffer_Release(buffer);
        return 1;
    }
    if (PyObject_GetBuffer(object, buffer, PyBUF_ND | PyBUF_FORMAT | flags)) return 0;
    const char *format = buffer->format ? buffer->format : "B";
    char letter = strchr("@=<^", format[0]) && format[0] ? format[1] : format[0];
    if (buffer->len && (buffer->itemsize != size || !letter || !strchr(formats, letter))) {
        PyErr_Format(PyExc_TypeError, "expected an array of %s, got items of %zd bytes in format '%s'", kind,
                     buffer->itemsize, format);
        PyBuffer_Release(buffer);
        return 0;
    }
    return Py_CLEANUP_SUPPORTED;
}

#define CONVERTER(name, type, formats, kind, flags) \
    static inline int name(PyObject *object, void *buffer) { \
        return get_array(object, buffer, (Py_ssize_t)sizeof(type), formats, kind, flags); \
    }
CONVERTER(as_u1, uint8_t, "Bb?c", "uint8", 0)
CONVERTER(as_u2, uint16_t, "H", "uint16", 0)
CONVERTER(as_u4, uint32_t, "IiLl", "uint32", 0)
CONVERTER(as_i4, int32_t, "il", "int32", 0)
CONVERTER(as_i8, int64_t, "lq", "int64", 0)
CONVERTER(out_u1, uint8_t, "Bb?c", "uint8", PyBUF_WRITABLE)
CONVERTER(out_i4, int32_t, "il", "int32", PyBUF_WRITABLE)
CONVERTER(out_i8, int64_t, "lq", "int64", PyBUF_WRITABLE)
#undef CONVERTER

#define RELEASE(...) release_all((Py_buffer *[]){__VA_ARGS__, NULL})

static inline void release_all(Py_buffer **buffers) {
    for (; *buffers; buffers++) PyBuffer_Release(*buffers);
}

/* Offsets must start at 0, ascend, and end at `total`. */
static inline int good_offsets(const int64_t *offsets, int64_t n, int64_t total) {
    if (n < 1 || offsets[0] != 0 || offsets[n - 1] != total) return 0;
    for (int64_t i = 1; i < n; i++)
        if (offsets[i] < offsets[i - 1]) return 0;
    return 1;
}

#endif
