/* The inner loops over tokens, for whole batches of documents, or for a part of one.
 *
 *   align             cuts of the text as token positions, as align.py defines them
 *   interleave        tokens with reflections between them, as interleave.py defines it
 *   reflected_lengths, read_reflected   the same for a part of one sequence at a time: shards/view.py
 *
 * The named modules hold the plain-Python definition, and the tests compare the two on random input. All but
 * read_reflected, whose calls are short, release the GIL.
 */
#include "../_arrays.h"

/* ---- align --------------------------------------------------------------------------------- */

PyDoc_STRVAR(align_doc,
             "align(tokens, token_offsets, token_bytes, offsets, ends, segment_offsets, extra, cuts, exact) -> None\n\n"
             "cuts int32[S]: how many tokens of its document come before each cut, the first token boundary at\n"
             "or after it. exact uint8[N]: 1 where the tokens' byte lengths, `extra` of them for a dummy\n"
             "prefix, add up to the document's; elsewhere cuts are not to be used.");

static PyObject *align(PyObject *self, PyObject *args) {
    Py_buffer tokens, token_offsets, token_bytes, offsets, ends, segment_offsets, cuts, exact;
    long long extra;
    if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&LO&O&", as_u4, &tokens, as_i8, &token_offsets, as_u2, &token_bytes, as_i8,
                          &offsets, as_i8, &ends, as_i8, &segment_offsets, &extra, out_i4, &cuts, out_u1, &exact))
        return NULL;
    int64_t n = COUNT(offsets, int64_t), vocab = COUNT(token_bytes, uint16_t);
    const int64_t *token_at = token_offsets.buf, *text_at = offsets.buf, *segment_at = segment_offsets.buf;
    const int64_t *end_at = ends.buf;
    const uint16_t *width = token_bytes.buf;
    int valid = token_offsets.len == offsets.len && segment_offsets.len == offsets.len && exact.len == n - 1 &&
                COUNT(cuts, int32_t) == COUNT(ends, int64_t);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(token_at, n, COUNT(tokens, uint32_t)) &&
            good_offsets(segment_at, n, COUNT(ends, int64_t));
    for (int64_t d = 0; valid && d < n - 1; d++) {
        const uint32_t *token = (const uint32_t *)tokens.buf + token_at[d];
        int64_t count = token_at[d + 1] - token_at[d], i = 0, bytes = text_at[d] - extra, known = 1;
        for (int64_t s = segment_at[d]; s < segment_at[d + 1]; s++) {
            while (bytes < end_at[s] && i < count) {
                if (token[i] < vocab) bytes += width[token[i]];
                else known = 0;
                i++;
            }
            ((int32_t *)cuts.buf)[s] = (int32_t)i;
        }
        for (; i < count; i++) { /* tokens of no bytes at the end */
            if (token[i] < vocab) bytes += width[token[i]];
            else known = 0;
        }
        if (segment_at[d + 1] > segment_at[d]) ((int32_t *)cuts.buf)[segment_at[d + 1] - 1] = (int32_t)count;
        ((u8 *)exact.buf)[d] = known && bytes == text_at[d + 1];
    }
    Py_END_ALLOW_THREADS
    RELEASE(&tokens, &token_offsets, &token_bytes, &offsets, &ends, &segment_offsets, &cuts, &exact);
    if (!valid) return PyErr_Format(PyExc_ValueError, "align: offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

/* ---- interleave ---------------------------------------------------------------------------- */

static inline void copy_tokens(void *out, int64_t at, const void *tokens, int64_t from, int64_t n, int wide_in,
                               int wide_out) {
    if (wide_in == wide_out) {
        size_t size = wide_out ? 4 : 2;
        memcpy((u8 *)out + (size_t)at * size, (const u8 *)tokens + (size_t)from * size, (size_t)n * size);
    } else if (wide_in) {
        for (int64_t i = 0; i < n; i++) ((uint16_t *)out)[at + i] = (uint16_t)((const uint32_t *)tokens)[from + i];
    } else {
        for (int64_t i = 0; i < n; i++) ((uint32_t *)out)[at + i] = ((const uint16_t *)tokens)[from + i];
    }
}

PyDoc_STRVAR(interleave_doc,
             "interleave(tokens, token_offsets, cuts, entries, segment_offsets, table, table_offsets, eod, out_size,\n"
             "out, lengths) -> int\n\n"
             "Writes each document's tokens with table entry entries[s] (int32) inserted at cuts[s] (int32), then eod\n"
             "unless it is -1. tokens are uint16 or uint32, table is int32, out has items of out_size bytes, 2 or\n"
             "4. Returns how many tokens were written; lengths int32[N] receives how many for each document.");

static PyObject *interleave(PyObject *self, PyObject *args) {
    Py_buffer tokens, token_offsets, cuts, entries, segment_offsets, table, table_offsets, out, lengths;
    long long eod, out_size;
    if (!PyArg_ParseTuple(args, "y*O&O&O&O&O&O&LLw*O&", &tokens, as_i8, &token_offsets, as_i4, &cuts, as_i4, &entries,
                          as_i8, &segment_offsets, as_i4, &table, as_i8, &table_offsets, &eod, &out_size, &out, out_i4,
                          &lengths))
        return NULL;
    int64_t n = COUNT(token_offsets, int64_t), table_size = COUNT(table_offsets, int64_t) - 1;
    const int64_t *token_at = token_offsets.buf, *segment_at = segment_offsets.buf, *entry_at = table_offsets.buf;
    const int32_t *cut = cuts.buf;
    const int32_t *entry = entries.buf;
    int64_t total = n ? token_at[n - 1] : 0, written = 0;
    int wide_in = tokens.len == total * 4, wide_out = out_size == 4;
    int64_t room = out.len / (wide_out ? 4 : 2);
    int valid = segment_offsets.len == token_offsets.len && COUNT(lengths, int32_t) == n - 1 &&
                COUNT(cuts, int32_t) == COUNT(entries, int32_t) && tokens.len == total * (wide_in ? 4 : 2);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(token_at, n, total) && good_offsets(segment_at, n, COUNT(cuts, int32_t)) &&
            good_offsets(entry_at, table_size + 1, COUNT(table, int32_t));
    for (int64_t d = 0; valid && d < n - 1; d++) {
        int64_t from = 0, count = token_at[d + 1] - token_at[d], begin = written;
        for (int64_t s = segment_at[d]; s <= segment_at[d + 1]; s++) { /* one more: the rest after the last cut */
            int last = s == segment_at[d + 1];
            int64_t to = last ? count : cut[s], e = last ? -1 : entry[s];
            int64_t insert = last ? (eod >= 0) : e >= 0 && e < table_size ? entry_at[e + 1] - entry_at[e] : -1;
            if (to < from || to > count || insert < 0 || written + to - from + insert > room) {
                valid = 0;
                break;
            }
            copy_tokens(out.buf, written, tokens.buf, token_at[d] + from, to - from, wide_in, wide_out);
            written += to - from;
            if (!last) copy_tokens(out.buf, written, table.buf, entry_at[e], insert, 1, wide_out);
            else if (insert) copy_tokens(out.buf, written, (uint32_t[]){(uint32_t)eod}, 0, 1, 1, wide_out);
            written += insert;
            from = to;
        }
        ((int32_t *)lengths.buf)[d] = (int32_t)(written - begin);
    }
    Py_END_ALLOW_THREADS
    RELEASE(&tokens, &token_offsets, &cuts, &entries, &segment_offsets, &table, &table_offsets, &out, &lengths);
    if (!valid) return PyErr_Format(PyExc_ValueError, "interleave: cuts, entries, offsets or sizes do not fit together");
    return PyLong_FromLongLong(written);
}

/* ---- reflected_lengths, read_reflected ------------------------------------------------------ */

enum { SUM_EVERY = 256 }; /* reflections between two running sums; data/shards/view.py */

PyDoc_STRVAR(reflected_lengths_doc,
             "reflected_lengths(offsets, entries, table_offsets, hint_offsets, lengths, sums) -> None\n\n"
             "Adds to lengths int32[N] the tokens of each sequence's reflections: entries uint16[S], of which\n"
             "offsets int64[N+1] says whose they are, and hints (hint_offsets int64[S+1], or empty). sums int64[S/256+1] receives how many tokens the\n"
             "reflections before every 256th one have, for read_reflected.");

static PyObject *reflected_lengths(PyObject *self, PyObject *args) {
    Py_buffer offsets, entries, table_offsets, hint_offsets, lengths, sums;
    if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&", as_i8, &offsets, as_u2, &entries, as_i8, &table_offsets, as_i8,
                          &hint_offsets, out_i4, &lengths, out_i8, &sums))
        return NULL;
    const int64_t *at = offsets.buf, *entry_at = table_offsets.buf;
    const int64_t *hint_at = hint_offsets.len ? hint_offsets.buf : NULL;
    const uint16_t *entry = entries.buf;
    int32_t *length = lengths.buf;
    int64_t *sum = sums.buf, n = COUNT(offsets, int64_t), count = COUNT(entries, uint16_t), total = 0;
    int64_t table_size = COUNT(table_offsets, int64_t) - 1;
    int valid = COUNT(lengths, int32_t) == n - 1 && COUNT(sums, int64_t) == count / SUM_EVERY + 1 && table_size >= 0 &&
                (!hint_at || COUNT(hint_offsets, int64_t) == count + 1);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, count) &&
            good_offsets(entry_at, table_size + 1, table_size ? entry_at[table_size] : 0) &&
            (!hint_at || good_offsets(hint_at, count + 1, hint_at[count]));
    if (valid) sum[0] = 0;
    for (int64_t i = 0; valid && i < n - 1; i++) {
        int64_t before = total;
        for (int64_t k = at[i]; valid && k < at[i + 1]; k++) {
            valid = entry[k] < table_size;
            if (valid) total += entry_at[entry[k] + 1] - entry_at[entry[k]] + (hint_at ? hint_at[k + 1] - hint_at[k] : 0);
            if ((k + 1) % SUM_EVERY == 0) sum[(k + 1) / SUM_EVERY] = total;
        }
        valid = valid && length[i] >= 0 && length[i] + (total - before) <= INT32_MAX;
        if (valid) length[i] += (int32_t)(total - before);
    }
    Py_END_ALLOW_THREADS
    RELEASE(&offsets, &entries, &table_offsets, &hint_offsets, &lengths, &sums);
    if (!valid) return PyErr_Format(PyExc_ValueError, "reflected_lengths: entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

typedef struct {
    u8 *out;
    int64_t size, begin, end, at; /* bytes of an item; the part wanted and the place reached, in reflected tokens */
} Part;

/* Pass a run of n tokens, copying those of them that are wanted. */
static inline void pass(Part *part, const u8 *run, int64_t n) {
    int64_t from = part->begin > part->at ? part->begin - part->at : 0;
    int64_t to = part->end - part->at < n ? part->end - part->at : n;
    if (from < to)
        memcpy(part->out + (part->at + from - part->begin) * part->size, run + from * part->size,
               (size_t)((to - from) * part->size));
    part->at += n;
}

/* The same for a run of int32 items, of whatever size the wanted ones are (on a little-endian machine). */
static inline void pass_wide(Part *part, const int32_t *run, int64_t n) {
    int64_t from = part->begin > part->at ? part->begin - part->at : 0;
    int64_t to = part->end - part->at < n ? part->end - part->at : n;
    for (int64_t i = from; i < to; i++) {
        int64_t item = run[i];
        memcpy(part->out + (part->at + i - part->begin) * part->size, &item, (size_t)part->size);
    }
    part->at += n;
}

PyDoc_STRVAR(read_reflected_doc,
             "read_reflected(tokens, first, count, cuts, entries, begin, end, table, table_offsets, hints, hint_offsets,\n"
             "sums, offset, item_size, out) -> None\n\n"
             "Fills `out` with the reflected tokens of one sequence from `offset` on. Its plain tokens are\n"
             "tokens[first:first+count], its reflections cuts[begin:end] (int32) and entries[begin:end]\n"
             "(uint16); tokens, table and out have items of item_size bytes, 8 at most. The tokens of reflection k are\n"
             "its entry's and hints[hint_offsets[k]:hint_offsets[k+1]] (int32; both may be empty). `sums` is of reflected_lengths.");

static PyObject *read_reflected(PyObject *self, PyObject *args) {
    Py_buffer tokens, cuts, entries, table, table_offsets, hints, hint_offsets, sums, out;
    long long first, count, begin, end, offset, size;
    if (!PyArg_ParseTuple(args, "y*LLO&O&LLy*O&O&O&O&LLw*", &tokens, &first, &count, as_i4, &cuts, as_u2, &entries, &begin,
                          &end, &table, as_i8, &table_offsets, as_i4, &hints, as_i8, &hint_offsets, as_i8, &sums,
                          &offset, &size, &out))
        return NULL;
    const int64_t *entry_at = table_offsets.buf, *sum = sums.buf;
    const int64_t *hint_at = hint_offsets.len ? hint_offsets.buf : NULL;
    const int32_t *cut = cuts.buf;
    const uint16_t *entry = entries.buf;
    int64_t table_size = COUNT(table_offsets, int64_t) - 1, n = COUNT(entries, uint16_t);
    int valid = size > 0 && size <= 8 && first >= 0 && count >= 0 && offset >= 0 && first + count <= tokens.len / size &&
                begin >= 0 && begin <= end && end <= n && COUNT(cuts, int32_t) == n &&
                COUNT(sums, int64_t) == n / SUM_EVERY + 1 && table_size >= 0 && entry_at[table_size] * size <= table.len &&
                (!hint_at || COUNT(hint_offsets, int64_t) == n + 1);
#define ENTRY_TOKENS(k) (entry_at[entry[k] + 1] - entry_at[entry[k]])
#define HINT_TOKENS(k) (hint_at ? hint_at[(k) + 1] - hint_at[k] : 0)
    int64_t k = begin, skipped = 0, p = 0; /* next reflection; tokens of those passed; plain tokens passed */
    if (valid && begin < end) {            /* start after the last running sum before `offset` */
        int64_t before = sum[begin / SUM_EVERY], low = begin / SUM_EVERY + 1, high = (end - 1) / SUM_EVERY + 1;
        for (int64_t j = begin / SUM_EVERY * SUM_EVERY; j < begin && valid; j++) {
            valid = entry[j] < table_size;
            if (valid) before += ENTRY_TOKENS(j) + HINT_TOKENS(j);
        }
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (cut[middle * SUM_EVERY] + sum[middle] - before <= offset) low = middle + 1;
            else high = middle;
        }
        if (--low > begin / SUM_EVERY) k = low * SUM_EVERY, skipped = sum[low] - before, p = cut[k];
    }
    Part part = {out.buf, size, offset, valid ? offset + out.len / size : 0, p + skipped};
    const u8 *plain = valid ? (const u8 *)tokens.buf + first * size : NULL;
    valid = valid && p >= 0;
    for (; valid && part.at < part.end && k <= end; k++) { /* one more: the rest after the last cut */
        int64_t to = k == end ? count : cut[k];
        valid = p <= to && to <= count && (k == end || entry[k] < table_size);
        if (!valid) break;
        pass(&part, plain + p * size, to - p);
        if (k < end) pass(&part, (const u8 *)table.buf + entry_at[entry[k]] * size, ENTRY_TOKENS(k));
        if (k < end && hint_at) {
            valid = hint_at[k] >= 0 && hint_at[k] <= hint_at[k + 1] && hint_at[k + 1] <= COUNT(hints, int32_t);
            if (!valid) break;
            pass_wide(&part, (const int32_t *)hints.buf + hint_at[k], HINT_TOKENS(k));
        }
        p = to;
    }
#undef ENTRY_TOKENS
#undef HINT_TOKENS
    valid = valid && part.at >= part.end;
    RELEASE(&tokens, &cuts, &entries, &table, &table_offsets, &hints, &hint_offsets, &sums, &out);
    if (!valid) return PyErr_Format(PyExc_ValueError, "read_reflected: cuts, entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"align", align, METH_VARARGS, align_doc},
    {"interleave", interleave, METH_VARARGS, interleave_doc},
    {"reflected_lengths", reflected_lengths, METH_VARARGS, reflected_lengths_doc},
    {"read_reflected", read_reflected, METH_VARARGS, read_reflected_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_tokens", "See the head of _tokens.c.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tokens(void) { return PyModule_Create(&module); }
