/* The inner loop of the `small` front, for whole batches of texts: hashed words, pairs of words and characters.
 *
 *   score     sum of the weights of each text's features
 *   features  the features themselves, for training
 *
 * features.py holds the plain-Python definition, and the tests compare the two. Both release the GIL. One pass over the
 * bytes: the characters roll through one register, and the words through a hash.
 */
#include "../../_arrays.h"

enum { OTHER, WORD, SPACE };
static u8 folded[256], kind[256];

static void fill_tables(void) {
    for (int b = 0; b < 256; b++) {
        int upper = b >= 'A' && b <= 'Z', lower = b >= 'a' && b <= 'z', digit = b >= '0' && b <= '9';
        int space = b == ' ' || (b >= '\t' && b <= '\r');
        folded[b] = (u8)(upper ? b + 32 : space ? ' ' : b);
        kind[b] = (u8)(upper || lower || digit || b >= 0x80 ? WORD : space ? SPACE : OTHER);
    }
}

static inline uint32_t bucket(uint32_t x, int shift) {
    x ^= x >> 15;
    return (x * 2654435769u) >> shift;
}

#define FNV_BASIS 2166136261u
#define FNV_PRIME 16777619u
#define PAIR 0x9E3779B1u
#define CHARACTERS 0x5BD1E995u

/* Runs `EMIT(index)` for each feature of the text [p, end). */
#define FOR_EACH_FEATURE(p, end, shift, EMIT)                                      \
    do {                                                                           \
        uint32_t word = FNV_BASIS, last = 0, roll = 0;                             \
        int inside = 0, seen = 0, space = 0;                                       \
        for (; p <= end; p++) {                                                    \
            int what = p < end ? kind[*p] : SPACE;                                 \
            u8 c = p < end ? folded[*p] : ' ';                                     \
            if (what == WORD) {                                                    \
                word = (word ^ c) * FNV_PRIME;                                     \
                inside = 1;                                                        \
            } else if (inside) {                                                   \
                EMIT(bucket(word, shift));                                         \
                if (last) EMIT(bucket(last * PAIR + word, shift));                 \
                last = word, word = FNV_BASIS, inside = 0;                         \
            }                                                                      \
            if (what == SPACE && space) continue;                                  \
            space = what == SPACE;                                                 \
            roll = roll << 8 | c;                                                  \
            if (++seen >= 4) EMIT(bucket(roll ^ CHARACTERS, shift));               \
        }                                                                          \
    } while (0)

static int good_bits(int bits) { return bits >= 8 && bits <= 24; }

PyDoc_STRVAR(score_doc,
             "score(text, offsets, weights, bits, sums, counts) -> None\n\n"
             "sums int64[N]: the sum of the weights uint8[2**bits], read as signed, of the features of each of the N\n"
             "byte ranges text[offsets[i]:offsets[i+1]]; counts int64[N]: how many features each has.");

static PyObject *score(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, weights, sums, counts;
    int bits;
    if (!PyArg_ParseTuple(args, "O&O&O&iO&O&", as_u1, &text, as_i8, &offsets, as_u1, &weights, &bits, out_i8, &sums,
                          out_i8, &counts))
        return NULL;
    const int64_t *at = offsets.buf;
    int64_t n = COUNT(offsets, int64_t) - 1;
    int valid = good_bits(bits) && weights.len == (Py_ssize_t)1 << bits && COUNT(sums, int64_t) == n &&
                COUNT(counts, int64_t) == n;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n + 1, text.len);
    const int8_t *weight = weights.buf;
    int shift = 32 - bits;
    for (int64_t i = 0; valid && i < n; i++) {
        const u8 *p = (const u8 *)text.buf + at[i], *end = (const u8 *)text.buf + at[i + 1];
        int64_t sum = 0, count = 0;
#define ADD(index) (sum += weight[index], count++)
        FOR_EACH_FEATURE(p, end, shift, ADD);
        ((int64_t *)sums.buf)[i] = sum;
        ((int64_t *)counts.buf)[i] = count;
    }
    Py_END_ALLOW_THREADS
    RELEASE(&text, &offsets, &weights, &sums, &counts);
    if (!valid) return PyErr_Format(PyExc_ValueError, "score: offsets, weights or sizes do not fit together");
    Py_RETURN_NONE;
}

PyDoc_STRVAR(features_doc,
             "features(text, offsets, bits, feature_offsets) -> bytes\n\n"
             "uint32 features of all N texts, one after the other; feature_offsets int64[N+1] receives where those of\n"
             "each text begin and end.");

static PyObject *features(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, out;
    int bits;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "O&O&iO&", as_u1, &text, as_i8, &offsets, &bits, out_i8, &out)) return NULL;
    const int64_t *at = offsets.buf;
    int64_t n = COUNT(offsets, int64_t) - 1, *ends = out.buf, size = 0;
    int valid = good_bits(bits) && COUNT(out, int64_t) == n + 1;
    uint32_t *items = NULL;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n + 1, text.len);
    /* A text of B bytes has at most B + 1 groups of characters, and half as many words and pairs each. */
    if (valid) items = malloc(sizeof(uint32_t) * ((size_t)text.len * 2 + (size_t)n * 4 + 1));
    if (items) ends[0] = 0;
    for (int64_t i = 0; items && i < n; i++) {
        const u8 *p = (const u8 *)text.buf + at[i], *end = (const u8 *)text.buf + at[i + 1];
        int shift = 32 - bits;
#define PUT(index) (items[size++] = (index))
        FOR_EACH_FEATURE(p, end, shift, PUT);
        ends[i + 1] = size;
    }
    Py_END_ALLOW_THREADS
    if (items)
        result = PyBytes_FromStringAndSize((const char *)items, (Py_ssize_t)(size * (int64_t)sizeof(uint32_t)));
    else if (valid)
        PyErr_NoMemory();
    else
        PyErr_SetString(PyExc_ValueError, "features: offsets or sizes do not fit together");
    free(items);
    RELEASE(&text, &offsets, &out);
    return result;
}

static PyMethodDef methods[] = {
    {"score", score, METH_VARARGS, score_doc},
    {"features", features, METH_VARARGS, features_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_front", "See the head of _front.c.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__front(void) {
    fill_tables();
    return PyModule_Create(&module);
}
