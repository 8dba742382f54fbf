/* The inner loops over tokens, for whole batches of documents, or for a part of one.
 *
 *   align             cuts of the text as token positions, as align.py defines them
 *   interleave        tokens with reflections between them, as interleave.py defines it
 *   reflected_lengths, read_reflected, read_mask   the same for a part of one sequence at a time: shards/view.py
 *
 * The named modules hold the plain-Python definition, and the tests compare the two on random input. All but
 * read_reflected and read_mask, whose calls are short, release the GIL.
 *
 * Table entry e writes table[table_offsets[2e]:table_offsets[2e+1]] before its segment, and the ids up to
 * table_offsets[2e+2] after it. flags uint8[L] (or empty, for zeros) says what else becomes of the segment.
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

enum { DROP = 1, MASK_TEXT = 2, MASK_IDS = 4 }; /* flags of an entry; reflection_table.py */

/* The tokens that entry e writes before and after its segment. */
static inline int64_t ids_before(const int64_t *entry_at, int64_t e) { return entry_at[2 * e + 1] - entry_at[2 * e]; }
static inline int64_t ids_after(const int64_t *entry_at, int64_t e) { return entry_at[2 * e + 2] - entry_at[2 * e + 1]; }

PyDoc_STRVAR(interleave_doc,
             "interleave(tokens, token_offsets, cuts, entries, segment_offsets, table, table_offsets, flags, eod,\n"
             "out_size, out, lengths) -> int\n\n"
             "Writes each document's tokens, with entry entries[s] (int32) around those from one cut to the next,\n"
             "cuts[s] (int32), then eod unless it is -1. tokens are uint16 or uint32, table is int32, out has items\n"
             "of out_size bytes, 2 or 4. Returns how many tokens were written; lengths int32[N] receives how many\n"
             "for each document.");

static PyObject *interleave(PyObject *self, PyObject *args) {
    Py_buffer tokens, token_offsets, cuts, entries, segment_offsets, table, table_offsets, flags, out, lengths;
    long long eod, out_size;
    if (!PyArg_ParseTuple(args, "y*O&O&O&O&O&O&O&LLw*O&", &tokens, as_i8, &token_offsets, as_i4, &cuts, as_i4, &entries,
                          as_i8, &segment_offsets, as_i4, &table, as_i8, &table_offsets, as_u1, &flags, &eod, &out_size,
                          &out, out_i4, &lengths))
        return NULL;
    int64_t n = COUNT(token_offsets, int64_t), table_size = (COUNT(table_offsets, int64_t) - 1) / 2;
    const int64_t *token_at = token_offsets.buf, *segment_at = segment_offsets.buf, *entry_at = table_offsets.buf;
    const int32_t *cut = cuts.buf;
    const int32_t *entry = entries.buf;
    const u8 *flag = flags.len ? flags.buf : NULL;
    int64_t total = n ? token_at[n - 1] : 0, written = 0;
    int wide_in = tokens.len == total * 4, wide_out = out_size == 4;
    int64_t room = out.len / (wide_out ? 4 : 2);
    int valid = segment_offsets.len == token_offsets.len && COUNT(lengths, int32_t) == n - 1 &&
                COUNT(cuts, int32_t) == COUNT(entries, int32_t) && tokens.len == total * (wide_in ? 4 : 2) &&
                (!flag || flags.len == table_size);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(token_at, n, total) && good_offsets(segment_at, n, COUNT(cuts, int32_t)) &&
            good_offsets(entry_at, 2 * table_size + 1, COUNT(table, int32_t));
    for (int64_t d = 0; valid && d < n - 1; d++) {
        int64_t from = 0, count = token_at[d + 1] - token_at[d], begin = written;
        for (int64_t s = segment_at[d]; valid && s < segment_at[d + 1]; s++) {
            int64_t to = cut[s], e = entry[s];
            valid = e >= 0 && e < table_size && from <= to && to <= count;
            if (!valid) break;
            int64_t before = ids_before(entry_at, e), after = ids_after(entry_at, e);
            int64_t kept = flag && flag[e] & DROP ? 0 : to - from;
            valid = written + before + kept + after <= room;
            if (!valid) break;
            copy_tokens(out.buf, written, table.buf, entry_at[2 * e], before, 1, wide_out);
            copy_tokens(out.buf, written + before, tokens.buf, token_at[d] + from, kept, wide_in, wide_out);
            copy_tokens(out.buf, written + before + kept, table.buf, entry_at[2 * e + 1], after, 1, wide_out);
            written += before + kept + after;
            from = to;
        }
        valid = valid && written + count - from + (eod >= 0) <= room;
        if (!valid) break;
        copy_tokens(out.buf, written, tokens.buf, token_at[d] + from, count - from, wide_in, wide_out);
        written += count - from;
        if (eod >= 0) copy_tokens(out.buf, written++, (uint32_t[]){(uint32_t)eod}, 0, 1, 1, wide_out);
        ((int32_t *)lengths.buf)[d] = (int32_t)(written - begin);
    }
    Py_END_ALLOW_THREADS
    RELEASE(&tokens, &token_offsets, &cuts, &entries, &segment_offsets, &table, &table_offsets, &flags, &out, &lengths);
    if (!valid) return PyErr_Format(PyExc_ValueError, "interleave: cuts, entries, offsets or sizes do not fit together");
    return PyLong_FromLongLong(written);
}

/* ---- reflected_lengths, read_reflected, read_mask -------------------------------------------- */

enum { SUM_EVERY = 256 }; /* reflections between two running sums; data/shards/view.py */

PyDoc_STRVAR(reflected_lengths_doc,
             "reflected_lengths(offsets, cuts, entries, table_offsets, flags, hint_offsets, lengths, sums) -> None\n\n"
             "Adds to lengths int32[N] what each sequence's reflections add to it or remove: cuts int32[S] and entries\n"
             "uint16[S], of which offsets int64[N+1] says whose they are, and hints (hint_offsets int64[S+1], or empty).\n"
             "sums int64[S/256+1] receives what the reflections of its sequence before every 256th one add, for\n"
             "read_reflected.");

static PyObject *reflected_lengths(PyObject *self, PyObject *args) {
    Py_buffer offsets, cuts, entries, table_offsets, flags, hint_offsets, lengths, sums;
    if (!PyArg_ParseTuple(args, "O&O&O&O&O&O&O&O&", as_i8, &offsets, as_i4, &cuts, as_u2, &entries, as_i8,
                          &table_offsets, as_u1, &flags, as_i8, &hint_offsets, out_i4, &lengths, out_i8, &sums))
        return NULL;
    const int64_t *at = offsets.buf, *entry_at = table_offsets.buf;
    const int64_t *hint_at = hint_offsets.len ? hint_offsets.buf : NULL;
    const uint16_t *entry = entries.buf;
    const int32_t *cut = cuts.buf;
    const u8 *flag = flags.len ? flags.buf : NULL;
    int32_t *length = lengths.buf;
    int64_t *sum = sums.buf, n = COUNT(offsets, int64_t), count = COUNT(entries, uint16_t);
    int64_t table_size = (COUNT(table_offsets, int64_t) - 1) / 2;
    int valid = COUNT(lengths, int32_t) == n - 1 && COUNT(sums, int64_t) == count / SUM_EVERY + 1 && table_size >= 0 &&
                COUNT(cuts, int32_t) == count && (!flag || flags.len == table_size) &&
                (!hint_at || COUNT(hint_offsets, int64_t) == count + 1);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, count) &&
            good_offsets(entry_at, 2 * table_size + 1, table_size ? entry_at[2 * table_size] : 0) &&
            (!hint_at || good_offsets(hint_at, count + 1, hint_at[count]));
    if (valid) sum[0] = 0;
    for (int64_t i = 0; valid && i < n - 1; i++) {
        int64_t added = 0;
        for (int64_t k = at[i]; valid && k < at[i + 1]; k++) {
            int64_t e = entry[k];
            valid = e < table_size;
            if (!valid) break;
            added += entry_at[2 * e + 2] - entry_at[2 * e] + (hint_at ? hint_at[k + 1] - hint_at[k] : 0);
            if (flag && flag[e] & DROP) added -= cut[k] - (k > at[i] ? cut[k - 1] : 0);
            if ((k + 1) % SUM_EVERY == 0) sum[(k + 1) / SUM_EVERY] = added;
        }
        valid = valid && length[i] >= 0 && length[i] + added >= 0 && length[i] + added <= INT32_MAX;
        if (valid) length[i] += (int32_t)added;
    }
    Py_END_ALLOW_THREADS
    RELEASE(&offsets, &cuts, &entries, &table_offsets, &flags, &hint_offsets, &lengths, &sums);
    if (!valid) return PyErr_Format(PyExc_ValueError, "reflected_lengths: entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

/* One sequence: `count` plain tokens, and its reflections begin..end. */
typedef struct {
    int64_t count, begin, end;
    const int32_t *cut;
    const uint16_t *entry;
    const int64_t *entry_at, *hint_at, *sum;
    const u8 *flag;
    int64_t table_size, hints;
} Sequence;

/* The part of it that is wanted: its tokens go to `out`, or whether they are learned to `mask`. */
typedef struct {
    u8 *out, *mask;
    int64_t size, begin, end, at; /* bytes of an item; the part wanted and the place reached, in reflected tokens */
} Part;

/* Pass a run of n tokens, taking those of them that are wanted. */
static inline void pass(Part *part, const u8 *run, int64_t n, int learned) {
    int64_t from = part->begin > part->at ? part->begin - part->at : 0;
    int64_t to = part->end - part->at < n ? part->end - part->at : n;
    if (from < to) {
        int64_t place = part->at + from - part->begin;
        if (part->out) memcpy(part->out + place * part->size, run + from * part->size, (size_t)((to - from) * part->size));
        else memset(part->mask + place, learned, (size_t)(to - from));
    }
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

/* Fill the wanted part; false where the sequence's arrays do not fit together. */
static int walk(const Sequence *of, Part *part, const u8 *plain, const u8 *table, const int32_t *hints) {
    const int32_t *cut = of->cut;
    int64_t k = of->begin, p = 0; /* next reflection; plain tokens passed */
    if (k < of->end) {            /* start at the last running sum before the part */
        int64_t low = k / SUM_EVERY + 1, high = (of->end - 1) / SUM_EVERY + 1;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (cut[middle * SUM_EVERY - 1] + of->sum[middle] <= part->begin) low = middle + 1;
            else high = middle;
        }
        if (--low > k / SUM_EVERY) k = low * SUM_EVERY, p = cut[k - 1], part->at = p + of->sum[low];
    }
    int valid = p >= 0 && part->at >= 0;
    for (; valid && part->at < part->end && k < of->end; k++) {
        int64_t to = cut[k], e = of->entry[k];
        valid = p <= to && to <= of->count && e < of->table_size;
        if (!valid) break;
        int flag = of->flag ? of->flag[e] : 0, learned = !(flag & MASK_IDS);
        int64_t from = of->entry_at[2 * e], between = of->entry_at[2 * e + 1];
        if (between > from) pass(part, table + from * part->size, between - from, learned);
        if (!(flag & DROP)) pass(part, plain + p * part->size, to - p, !(flag & MASK_TEXT));
        pass(part, table + between * part->size, of->entry_at[2 * e + 2] - between, learned);
        if (of->hint_at) {
            int64_t begin = of->hint_at[k], end = of->hint_at[k + 1];
            valid = begin >= 0 && begin <= end && end <= of->hints;
            if (!valid) break;
            if (part->out) pass_wide(part, hints + begin, end - begin);
            else pass(part, NULL, end - begin, learned);
        }
        p = to;
    }
    if (valid && part->at < part->end) { /* the rest after the last cut */
        valid = p <= of->count;
        if (valid) pass(part, plain + p * part->size, of->count - p, 1);
    }
    return valid && part->at >= part->end;
}

PyDoc_STRVAR(read_reflected_doc,
             "read_reflected(tokens, first, count, cuts, entries, begin, end, table, table_offsets, flags, hints,\n"
             "hint_offsets, sums, offset, item_size, out) -> None\n\n"
             "Fills `out` with the reflected tokens of one sequence from `offset` on. Its plain tokens are\n"
             "tokens[first:first+count], its reflections cuts[begin:end] (int32) and entries[begin:end]\n"
             "(uint16); tokens, table and out have items of item_size bytes, 8 at most. The tokens of reflection k are\n"
             "its entry's and hints[hint_offsets[k]:hint_offsets[k+1]] (int32; both may be empty). `sums` is of reflected_lengths.");

static PyObject *read_reflected(PyObject *self, PyObject *args) {
    Py_buffer tokens, cuts, entries, table, table_offsets, flags, hints, hint_offsets, sums, out;
    long long first, count, begin, end, offset, size;
    if (!PyArg_ParseTuple(args, "y*LLO&O&LLy*O&O&O&O&O&LLw*", &tokens, &first, &count, as_i4, &cuts, as_u2, &entries,
                          &begin, &end, &table, as_i8, &table_offsets, as_u1, &flags, as_i4, &hints, as_i8,
                          &hint_offsets, as_i8, &sums, &offset, &size, &out))
        return NULL;
    int64_t table_size = (COUNT(table_offsets, int64_t) - 1) / 2, n = COUNT(entries, uint16_t);
    Sequence of = {count, begin, end, cuts.buf, entries.buf, table_offsets.buf,
                   hint_offsets.len ? hint_offsets.buf : NULL, sums.buf, flags.len ? flags.buf : NULL, table_size,
                   COUNT(hints, int32_t)};
    int valid = size > 0 && size <= 8 && first >= 0 && count >= 0 && offset >= 0 && first + count <= tokens.len / size &&
                begin >= 0 && begin <= end && end <= n && COUNT(cuts, int32_t) == n &&
                COUNT(sums, int64_t) == n / SUM_EVERY + 1 && table_size >= 0 &&
                of.entry_at[2 * table_size] * size <= table.len && (!of.flag || flags.len == table_size) &&
                (!of.hint_at || COUNT(hint_offsets, int64_t) == n + 1);
    if (valid) {
        Part part = {out.buf, NULL, size, offset, offset + out.len / size, 0};
        valid = walk(&of, &part, (const u8 *)tokens.buf + first * size, table.buf, hints.buf);
    }
    RELEASE(&tokens, &cuts, &entries, &table, &table_offsets, &flags, &hints, &hint_offsets, &sums, &out);
    if (!valid) return PyErr_Format(PyExc_ValueError, "read_reflected: cuts, entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

PyDoc_STRVAR(read_mask_doc,
             "read_mask(count, cuts, entries, begin, end, table_offsets, flags, hint_offsets, sums, offset, mask) -> None\n\n"
             "Fills mask uint8 with 1 where a token that read_reflected would read from `offset` on is learned, else 0.");

static PyObject *read_mask(PyObject *self, PyObject *args) {
    Py_buffer cuts, entries, table_offsets, flags, hint_offsets, sums, mask;
    long long count, begin, end, offset;
    if (!PyArg_ParseTuple(args, "LO&O&LLO&O&O&O&LO&", &count, as_i4, &cuts, as_u2, &entries, &begin, &end, as_i8,
                          &table_offsets, as_u1, &flags, as_i8, &hint_offsets, as_i8, &sums, &offset, out_u1, &mask))
        return NULL;
    int64_t table_size = (COUNT(table_offsets, int64_t) - 1) / 2, n = COUNT(entries, uint16_t);
    Sequence of = {count, begin, end, cuts.buf, entries.buf, table_offsets.buf,
                   hint_offsets.len ? hint_offsets.buf : NULL, sums.buf, flags.len ? flags.buf : NULL, table_size,
                   INT64_MAX};
    int valid = count >= 0 && offset >= 0 && begin >= 0 && begin <= end && end <= n && COUNT(cuts, int32_t) == n &&
                COUNT(sums, int64_t) == n / SUM_EVERY + 1 && table_size >= 0 && (!of.flag || flags.len == table_size) &&
                (!of.hint_at || COUNT(hint_offsets, int64_t) == n + 1);
    if (valid) {
        Part part = {NULL, mask.buf, 0, offset, offset + mask.len, 0};
        valid = walk(&of, &part, NULL, NULL, NULL);
    }
    RELEASE(&cuts, &entries, &table_offsets, &flags, &hint_offsets, &sums, &mask);
    if (!valid) return PyErr_Format(PyExc_ValueError, "read_mask: cuts, entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"align", align, METH_VARARGS, align_doc},
    {"interleave", interleave, METH_VARARGS, interleave_doc},
    {"reflected_lengths", reflected_lengths, METH_VARARGS, reflected_lengths_doc},
    {"read_reflected", read_reflected, METH_VARARGS, read_reflected_doc},
    {"read_mask", read_mask, METH_VARARGS, read_mask_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_tokens", "See the head of _tokens.c.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tokens(void) { return PyModule_Create(&module); }
