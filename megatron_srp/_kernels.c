/* The inner loops of the data plane, over whole batches of documents and (but for pack and unescape) without the GIL.
 *
 *   pack         strings into one buffer
 *   unescape     JSON strings into one buffer
 *   segment      where to cut the text           defined by segmentation.py
 *   align        those cuts as token positions   defined by data/align.py
 *   interleave   tokens with reflections between defined by data/interleave.py
 *   reflected_lengths, read_reflected   the same, a part of one sequence at a time: data/shards/view.py
 *   count_chars  bytes to characters
 *   find_characters  which documents contain certain characters
 *
 * The named modules hold the plain-Python definition, and the tests compare the two on random input.
 * Everything here works on flat arrays: one UTF-8 buffer or token array for the batch, and an offset
 * array int64[N+1] that says where each of the N documents begins and ends. Callers allocate outputs.
 * Text must be valid UTF-8; every index that comes from outside is checked before it is used.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;

/* ---- buffers ------------------------------------------------------------------------------- */

#define COUNT(buffer, type) ((int64_t)((buffer).len / (Py_ssize_t)sizeof(type)))

/* Offsets must start at 0, ascend, and end at `total`. */
static int good_offsets(const int64_t *offsets, int64_t n, int64_t total) {
    if (n < 1 || offsets[0] != 0 || offsets[n - 1] != total) return 0;
    for (int64_t i = 1; i < n; i++)
        if (offsets[i] < offsets[i - 1]) return 0;
    return 1;
}

static inline int is_lower(u8 c) { return (u8)(c - 'a') < 26; }
static inline int is_alpha(u8 c) { return (u8)((c | 32) - 'a') < 26; }
static inline int is_digit(u8 c) { return (u8)(c - '0') < 10; }

/* ---- pack ---------------------------------------------------------------------------------- */

PyDoc_STRVAR(pack_doc,
             "pack(texts, offsets) -> bytes\n\n"
             "The UTF-8 of a list of N strings, one behind the other; offsets int64[N+1] receives where each\n"
             "begins and ends. Several times faster than growing an Arrow array: the size is known first.");

static PyObject *pack(PyObject *self, PyObject *args) {
    PyObject *texts, *result = NULL;
    Py_buffer offsets;
    if (!PyArg_ParseTuple(args, "O!w*", &PyList_Type, &texts, &offsets)) return NULL;
    int64_t *at = offsets.buf, n = PyList_GET_SIZE(texts);
    if (COUNT(offsets, int64_t) != n + 1) {
        PyErr_SetString(PyExc_ValueError, "pack: offsets must be one longer than texts");
        goto done;
    }
    at[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        Py_ssize_t size;
        /* Points into an ASCII string; of any other it makes the UTF-8 once and keeps it for the copy below. */
        if (!PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(texts, i), &size)) goto done;
        at[i + 1] = at[i] + size;
    }
    result = PyBytes_FromStringAndSize(NULL, at[n]);
    for (int64_t i = 0; result && i < n; i++)
        memcpy(PyBytes_AS_STRING(result) + at[i], PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(texts, i), NULL),
               (size_t)(at[i + 1] - at[i]));
done:
    PyBuffer_Release(&offsets);
    return result;
}

/* ---- unescape ------------------------------------------------------------------------------ */

/* The value of four hexadecimal digits, -1 where they are none. */
static int32_t hex4(const u8 *p) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = is_digit(p[i]) ? p[i] - '0' : is_alpha(p[i]) && (p[i] | 32) <= 'f' ? (p[i] | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

static u8 *put_utf8(u8 *out, uint32_t c) {
    if (c < 0x80) {
        *out++ = (u8)c;
        return out;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const u8 lead[] = {0, 0xC0, 0xE0, 0xF0};
    *out++ = (u8)(lead[more] | c >> (6 * more));
    while (more--) *out++ = (u8)(0x80 | (c >> (6 * more) & 0x3F));
    return out;
}

/* The escape sequence at p, behind its backslash, written to *out; returns what follows it, NULL where it
 * is not valid. */
static const u8 *put_escape(const u8 *p, const u8 *end, u8 **out) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (p == end) return NULL;
    if (*p != 'u') {
        const char *name = *p ? strchr(names, *p) : NULL;
        if (!name) return NULL;
        *(*out)++ = (u8)values[name - names];
        return p + 1;
    }
    int32_t c = end - p >= 5 ? hex4(p + 1) : -1;
    p += 5;
    if (c < 0 || (c & 0xFC00) == 0xDC00) return NULL;
    if ((c & 0xFC00) == 0xD800) { /* the first half of a character of four bytes */
        int32_t low = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2) : -1;
        if ((low & ~0x3FF) != 0xDC00) return NULL;
        c = 0x10000 + ((c & 0x3FF) << 10 | (low & 0x3FF));
        p += 6;
    }
    *out = put_utf8(*out, (uint32_t)c);
    return p;
}

/* The content of the JSON string [p, end), quotes included, written to out; returns its end, NULL where
 * it is not a valid one. Never longer than the string. */
static u8 *put_string(const u8 *p, const u8 *end, u8 *out) {
    if (end - p < 2 || *p != '"' || end[-1] != '"') return NULL;
    p++, end--;
    while (p < end) {
        const u8 *stop = memchr(p, '\\', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p);
        memcpy(out, p, n);
        out += n, p += n;
        if (stop && !(p = put_escape(p + 1, end, &out))) return NULL;
    }
    return out;
}

PyDoc_STRVAR(unescape_doc,
             "unescape(strings, offsets, bad) -> bytes\n\n"
             "The content of N JSON strings (bytes-like, with their quotes), one behind the other; offsets int64[N+1]\n"
             "receives where each begins and ends. bad uint8[N]: 1 for one that is not valid, which counts as empty.\n"
             "What is not escaped is copied as it is: whether it is UTF-8 is for the caller to check.");

static PyObject *unescape(PyObject *self, PyObject *args) {
    PyObject *strings, *result = NULL;
    Py_buffer offsets, bad, string;
    if (!PyArg_ParseTuple(args, "O!w*w*", &PyList_Type, &strings, &offsets, &bad)) return NULL;
    int64_t *at = offsets.buf, n = PyList_GET_SIZE(strings), room = 0;
    if (COUNT(offsets, int64_t) != n + 1 || bad.len != n) {
        PyErr_SetString(PyExc_ValueError, "unescape: offsets or sizes do not fit together");
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(strings, i), &string, PyBUF_SIMPLE)) goto done;
        room += string.len;
        PyBuffer_Release(&string);
    }
    if (!(result = PyBytes_FromStringAndSize(NULL, room))) goto done;
    u8 *begin = (u8 *)PyBytes_AS_STRING(result), *out = begin;
    at[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(strings, i), &string, PyBUF_SIMPLE)) {
            Py_CLEAR(result);
            goto done;
        }
        u8 *end = put_string(string.buf, (const u8 *)string.buf + string.len, out);
        ((u8 *)bad.buf)[i] = end == NULL;
        out = end ? end : out;
        at[i + 1] = out - begin;
        PyBuffer_Release(&string);
    }
    _PyBytes_Resize(&result, out - begin);
done:
    PyBuffer_Release(&offsets), PyBuffer_Release(&bad);
    return result;
}

/* ---- segment: characters ------------------------------------------------------------------- */

/* Length in bytes of the whitespace character at p, 0 if it is none. Unicode's White_Space. */
static inline int space_length(const u8 *p, const u8 *end) {
    if (*p == ' ' || (u8)(*p - 9) < 5) return 1;
    if (*p < 0xC2 || p + 1 >= end) return 0;
    if (*p == 0xC2) return p[1] == 0x85 || p[1] == 0xA0 ? 2 : 0;
    if (p + 2 >= end) return 0;
    if (*p == 0xE1) return p[1] == 0x9A && p[2] == 0x80 ? 3 : 0;
    if (*p == 0xE3) return p[1] == 0x80 && p[2] == 0x80 ? 3 : 0;
    if (*p != 0xE2) return 0;
    if (p[1] == 0x80) return p[2] <= 0x8A || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF ? 3 : 0;
    return p[1] == 0x81 && p[2] == 0x9F ? 3 : 0;
}

/* The first byte of the character that ends directly before p. */
static inline const u8 *previous(const u8 *p, const u8 *begin) {
    do p--;
    while (p > begin && (*p & 0xC0) == 0x80);
    return p;
}

/* The code point of the character [p, end); only up to three bytes matter to the callers. */
static inline uint32_t code_point(const u8 *p, const u8 *end) {
    switch (end - p) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    case 3: return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    default: return 0xFFFFFFFF;
    }
}

static inline int is_opening(uint32_t c) {
    return c == '"' || c == '\'' || c == '(' || c == '[' || c == '{' || c == 0x201C || c == 0x2018 || c == 0xAB;
}
static inline int is_closing(uint32_t c) {
    return c == '"' || c == '\'' || c == ')' || c == ']' || c == '}' || c == 0x201D || c == 0x2019 || c == 0xBB;
}
static inline int is_cjk_closing(uint32_t c) {
    return c == 0x300D || c == 0x300F || c == 0xFF09 || c == 0x201D || c == 0x2019;
}
static inline int is_cjk_end(uint32_t c) { return c == 0x3002 || c == 0xFF01 || c == 0xFF1F; }
static inline int is_graphic(u8 c) { return (u8)(c - 33) < 94; } /* ASCII, not a space or control character */

/* ---- segment: sentences -------------------------------------------------------------------- */

typedef struct {
    const char *of_letter[26]; /* where the words of that first letter begin: "jan\njr\n..." */
} Abbreviations;

typedef struct {
    const u8 *begin, *words_end, *end; /* the document; words_end: behind its last word */
    const Abbreviations *abbreviations;
} Document;

/* `words` is sorted, lowercase, and has a newline behind every word. */
static void index_abbreviations(const char *words, Abbreviations *index) {
    for (int letter = 0; letter < 26; letter++) {
        while (*words && *words < 'a' + letter) words = strchr(words, '\n') + 1;
        index->of_letter[letter] = words;
    }
}

static int is_abbreviation(const Document *d, const u8 *from, const u8 *to) {
    char word[16];
    size_t n = (size_t)(to - from);
    if (n == 0 || n >= sizeof word) return 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_alpha(from[i])) return 0;
        word[i] = (char)(from[i] | 32);
    }
    word[n] = '\n';
    for (const char *w = d->abbreviations->of_letter[word[0] - 'a']; *w == word[0]; w = strchr(w, '\n') + 1)
        if (strncmp(w, word, n + 1) == 0) return 1;
    return 0;
}

/* Whether the full stop before `stop` closes a sentence: not after an initial, 1., e.g. or Mr. */
static int full_stop_ends(const Document *d, const u8 *stop) {
    const u8 *from = stop;
    while (from > d->begin) { /* back to the start of the word */
        const u8 *q = previous(from, d->begin);
        if (space_length(q, d->end)) break;
        if (*q == '.') return 0; /* "e.g.", "U.S.", "1.5." */
        from = q;
    }
    while (from < stop) {
        const u8 *next = from + 1;
        while (next < stop && (*next & 0xC0) == 0x80) next++;
        if (!is_opening(code_point(from, next))) break;
        from = next;
    }
    int64_t n = stop - from;
    if (n == 1 && (is_alpha(*from) || is_digit(*from))) return 0;
    if (n == 2 && is_digit(from[0]) && is_digit(from[1])) return 0;
    return !is_abbreviation(d, from, stop);
}

/* Whether a sentence ends at p, which lies directly behind a word. */
static int word_ends_sentence(const Document *d, const u8 *p) {
    int newlines = 0;
    const u8 *next = p;
    for (int n; next < d->end && (n = space_length(next, d->end)) > 0; next += n) newlines += *next == '\n';
    int lowercase_follows = next < d->end && is_lower(*next);
    if (next == d->end || newlines > 1 || (newlines == 1 && !lowercase_follows)) return 1;
    if (lowercase_follows) return 0;
    while (p > d->begin) {
        const u8 *q = previous(p, d->begin);
        uint32_t c = code_point(q, p);
        if (c == '!' || c == '?' || c == 0x2026) return 1;
        if (c == '.') return full_stop_ends(d, q);
        if (!is_closing(c)) return 0;
        p = q;
    }
    return 0;
}

/* Whether a run of CJK full stops and closing quotes ends at p. */
static int cjk_ends_sentence(const Document *d, const u8 *p) {
    if (p < d->end) {
        const u8 *next = p + 1;
        while (next < d->end && (*next & 0xC0) == 0x80) next++;
        uint32_t c = code_point(p, next);
        if (is_cjk_end(c) || is_cjk_closing(c)) return 0; /* the run goes on */
    }
    while (p > d->begin) {
        const u8 *q = previous(p, d->begin);
        uint32_t c = code_point(q, p);
        if (is_cjk_end(c)) return 1;
        if (!is_cjk_closing(c)) return 0;
        p = q;
    }
    return 0;
}

/* ---- segment: words ------------------------------------------------------------------------ */

enum { BLOCK = 64, BEFORE = 3, BEHIND = 2 };

/* Whether a space of more than one byte touches p[-BEFORE..BLOCK). As space_length() has it, but
 * without branches, so that the compiler turns the loop into vector instructions. */
static inline int has_wide_space(const u8 *p) {
    u8 wide = 0;
    for (int i = -BEFORE; i < BLOCK; i++) {
        u8 a = p[i], b = p[i + 1], c = p[i + 2];
        u8 general = (u8)((u8)(c - 0x80) <= 0x0A) | (u8)(c == 0xA8) | (u8)(c == 0xA9) | (u8)(c == 0xAF);
        wide |= (u8)(a == 0xC2) & ((u8)(b == 0x85) | (u8)(b == 0xA0));
        wide |= (u8)(a == 0xE2) & (((u8)(b == 0x80) & general) | ((u8)(b == 0x81) & (u8)(c == 0x9F)));
        wide |= (u8)(a == 0xE1) & (u8)(b == 0x9A) & (u8)(c == 0x80);
        wide |= (u8)(a == 0xE3) & (u8)(b == 0x80) & (u8)(c == 0x80);
    }
    return wide;
}

/* Word ends in p[0..BLOCK): positions i where p[i] is a space and p[i-1] is not. -1: there are wide
 * spaces about, look closely. Reads p[-BEFORE..BLOCK+BEHIND). */
static inline int count_word_ends(const u8 *p) {
    u8 high = 0, count = 0;
    for (int i = 0; i < BLOCK; i++) {
        u8 space = (u8)(p[i] == ' ') | (u8)((u8)(p[i] - 9) < 5);
        u8 before = (u8)(p[i - 1] == ' ') | (u8)((u8)(p[i - 1] - 9) < 5);
        high |= p[i];
        count += space & (u8)~before & 1;
    }
    high |= p[-1];
    return (high & 0x80) && has_wide_space(p) ? -1 : count;
}

/* Behind the `max_words`-th word from `first` on (the first byte of a word), or `limit` if that comes
 * first. */
static const u8 *skip_words(const Document *d, const u8 *first, const u8 *limit, int64_t max_words) {
    const u8 *p = first + 1;
    for (;;) {
        int whole = p - BEFORE >= d->begin && p + BLOCK + BEHIND <= d->end && p + BLOCK <= limit;
        int n = whole ? count_word_ends(p) : -1;
        if (n >= 0 && n < max_words) {
            max_words -= n;
            p += BLOCK;
            continue;
        }
        const u8 *stop = p + BLOCK <= limit ? p + BLOCK : limit;
        while (p < stop) {
            int length = space_length(p, d->end);
            if (!length) {
                p++;
                continue;
            }
            if (!space_length(previous(p, d->begin), d->end) && --max_words == 0) return p;
            p += length;
        }
        if (p >= limit) return limit;
    }
}

static const u8 *find_cut(const Document *d, const u8 *start, int64_t max_words, int64_t max_bytes) {
    const u8 *first = start;
    for (int n; first < d->words_end && (n = space_length(first, d->end)) > 0;) first += n;
    if (first >= d->words_end) return d->end;
    const u8 *limit = d->words_end - first > max_bytes ? first + max_bytes : d->words_end;
    while (limit < d->words_end && (*limit & 0xC0) == 0x80) limit--;
    limit = skip_words(d, first, limit, max_words);
    if (limit >= d->words_end) return d->end;
    const u8 *word_end = NULL;
    for (const u8 *p = limit, *q; p > first; p = q) {
        while (p > first && is_graphic(p[0]) && p[-1] < 0x80) p--; /* inside a word of ASCII letters */
        if (p == first) break;
        q = previous(p, first);
        if (*q >= 0xE2 && cjk_ends_sentence(d, p)) return p;
        if (!space_length(p, d->end) || space_length(q, d->end)) continue;
        if (word_ends_sentence(d, p)) return p;
        if (!word_end) word_end = p;
    }
    return word_end ? word_end : limit;
}

typedef struct {
    int64_t *items, n, room;
} Vector;

static int push(Vector *v, int64_t item) {
    if (v->n == v->room) {
        int64_t room = v->room ? v->room * 2 : 4096;
        int64_t *items = realloc(v->items, (size_t)room * sizeof *items);
        if (!items) return 0;
        v->items = items;
        v->room = room;
    }
    v->items[v->n++] = item;
    return 1;
}

static int segment_document(const u8 *text, Document d, int64_t max_words, int64_t max_bytes, Vector *ends) {
    d.words_end = d.end;
    while (d.words_end > d.begin) {
        const u8 *q = previous(d.words_end, d.begin);
        if (!space_length(q, d.end)) break;
        d.words_end = q;
    }
    for (const u8 *p = d.begin; p < d.end;) {
        p = find_cut(&d, p, max_words, max_bytes);
        if (!push(ends, p - text)) return 0;
    }
    return 1;
}

PyDoc_STRVAR(segment_doc,
             "segment(text, offsets, max_words, max_bytes, abbreviations, segment_offsets) -> bytes\n\n"
             "Byte offsets int64[S] at which the segments of the batch end, as bytes; segment_offsets\n"
             "int64[N+1] receives which of them belong to each document.");

static PyObject *segment(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, out;
    long long max_words, max_bytes;
    const char *words;
    if (!PyArg_ParseTuple(args, "y*y*LLsw*", &text, &offsets, &max_words, &max_bytes, &words, &out)) return NULL;
    Abbreviations abbreviations;
    index_abbreviations(words, &abbreviations);
    const int64_t *at = offsets.buf;
    int64_t *segment_offsets = out.buf, n = COUNT(offsets, int64_t);
    Vector ends = {0};
    int valid = out.len == offsets.len && max_words > 0 && max_bytes > 4, memory = 1;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, text.len);
    for (int64_t i = 0; valid && memory && i < n - 1; i++) {
        const u8 *base = text.buf;
        Document d = {base + at[i], NULL, base + at[i + 1], &abbreviations};
        segment_offsets[i] = ends.n;
        memory = segment_document(base, d, max_words, max_bytes, &ends);
    }
    if (valid) segment_offsets[n - 1] = ends.n;
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (!valid) PyErr_SetString(PyExc_ValueError, "segment: offsets, limits or sizes do not fit together");
    else if (!memory) PyErr_NoMemory();
    else result = PyBytes_FromStringAndSize((const char *)ends.items, ends.n * (Py_ssize_t)sizeof(int64_t));
    free(ends.items);
    PyBuffer_Release(&text), PyBuffer_Release(&offsets), PyBuffer_Release(&out);
    return result;
}

/* ---- align --------------------------------------------------------------------------------- */

PyDoc_STRVAR(align_doc,
             "align(tokens, token_offsets, token_bytes, offsets, ends, segment_offsets, extra, cuts, exact) -> None\n\n"
             "cuts int32[S]: how many tokens of its document lie before each cut, the first token boundary at\n"
             "or behind it. exact uint8[N]: 1 where the tokens' byte lengths, `extra` of them for a dummy\n"
             "prefix, add up to the document's; elsewhere cuts are not to be used.");

static PyObject *align(PyObject *self, PyObject *args) {
    Py_buffer tokens, token_offsets, token_bytes, offsets, ends, segment_offsets, cuts, exact;
    long long extra;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*Lw*w*", &tokens, &token_offsets, &token_bytes, &offsets, &ends,
                          &segment_offsets, &extra, &cuts, &exact))
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
    PyBuffer_Release(&tokens), PyBuffer_Release(&token_offsets), PyBuffer_Release(&token_bytes);
    PyBuffer_Release(&offsets), PyBuffer_Release(&ends), PyBuffer_Release(&segment_offsets);
    PyBuffer_Release(&cuts), PyBuffer_Release(&exact);
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
             "interleave(tokens, token_offsets, cuts, ids, segment_offsets, table, table_offsets, eod, out_size,\n"
             "out, lengths) -> int\n\n"
             "Writes each document's tokens with table entry ids[s] (int32) inserted at cuts[s] (int32), then eod\n"
             "unless it is -1. tokens are uint16 or uint32, table is int32, out has items of out_size bytes, 2 or\n"
             "4. Returns how many tokens were written; lengths int32[N] receives how many for each document.");

static PyObject *interleave(PyObject *self, PyObject *args) {
    Py_buffer tokens, token_offsets, cuts, ids, segment_offsets, table, table_offsets, out, lengths;
    long long eod, out_size;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*y*y*LLw*w*", &tokens, &token_offsets, &cuts, &ids, &segment_offsets,
                          &table, &table_offsets, &eod, &out_size, &out, &lengths))
        return NULL;
    int64_t n = COUNT(token_offsets, int64_t), entries = COUNT(table_offsets, int64_t) - 1;
    const int64_t *token_at = token_offsets.buf, *segment_at = segment_offsets.buf, *entry_at = table_offsets.buf;
    const int32_t *cut = cuts.buf;
    const int32_t *id = ids.buf;
    int64_t total = n ? token_at[n - 1] : 0, written = 0;
    int wide_in = tokens.len == total * 4, wide_out = out_size == 4;
    int64_t room = out.len / (wide_out ? 4 : 2);
    int valid = segment_offsets.len == token_offsets.len && COUNT(lengths, int32_t) == n - 1 &&
                COUNT(cuts, int32_t) == COUNT(ids, int32_t) && tokens.len == total * (wide_in ? 4 : 2);
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(token_at, n, total) && good_offsets(segment_at, n, COUNT(cuts, int32_t)) &&
            good_offsets(entry_at, entries + 1, COUNT(table, int32_t));
    for (int64_t d = 0; valid && d < n - 1; d++) {
        int64_t from = 0, count = token_at[d + 1] - token_at[d], begin = written;
        for (int64_t s = segment_at[d]; s <= segment_at[d + 1]; s++) { /* one more: the rest behind the last cut */
            int last = s == segment_at[d + 1];
            int64_t to = last ? count : cut[s], entry = last ? -1 : id[s];
            int64_t insert = last ? (eod >= 0) : entry >= 0 && entry < entries ? entry_at[entry + 1] - entry_at[entry] : -1;
            if (to < from || to > count || insert < 0 || written + to - from + insert > room) {
                valid = 0;
                break;
            }
            copy_tokens(out.buf, written, tokens.buf, token_at[d] + from, to - from, wide_in, wide_out);
            written += to - from;
            if (!last) copy_tokens(out.buf, written, table.buf, entry_at[entry], insert, 1, wide_out);
            else if (insert) copy_tokens(out.buf, written, (uint32_t[]){(uint32_t)eod}, 0, 1, 1, wide_out);
            written += insert;
            from = to;
        }
        ((int32_t *)lengths.buf)[d] = (int32_t)(written - begin);
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&tokens), PyBuffer_Release(&token_offsets), PyBuffer_Release(&cuts), PyBuffer_Release(&ids);
    PyBuffer_Release(&segment_offsets), PyBuffer_Release(&table), PyBuffer_Release(&table_offsets);
    PyBuffer_Release(&out), PyBuffer_Release(&lengths);
    if (!valid) return PyErr_Format(PyExc_ValueError, "interleave: cuts, ids, offsets or sizes do not fit together");
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
    if (!PyArg_ParseTuple(args, "y*y*y*y*w*w*", &offsets, &entries, &table_offsets, &hint_offsets, &lengths, &sums))
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
    PyBuffer_Release(&offsets), PyBuffer_Release(&entries), PyBuffer_Release(&table_offsets);
    PyBuffer_Release(&hint_offsets), PyBuffer_Release(&lengths), PyBuffer_Release(&sums);
    if (!valid) return PyErr_Format(PyExc_ValueError, "reflected_lengths: entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

typedef struct {
    u8 *out;
    int64_t size, begin, end, at; /* bytes of an item; the part wanted and the place reached, in reflected tokens */
} Part;

/* Go on by a run of n tokens, copying those of them that are wanted. */
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
    if (!PyArg_ParseTuple(args, "y*LLy*y*LLy*y*y*y*y*LLw*", &tokens, &first, &count, &cuts, &entries, &begin, &end,
                          &table, &table_offsets, &hints, &hint_offsets, &sums, &offset, &size, &out))
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
    if (valid && begin < end) {            /* start behind the last running sum that lies before `offset` */
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
    for (; valid && part.at < part.end && k <= end; k++) { /* one more: the rest behind the last cut */
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
    PyBuffer_Release(&tokens), PyBuffer_Release(&cuts), PyBuffer_Release(&entries), PyBuffer_Release(&table);
    PyBuffer_Release(&table_offsets), PyBuffer_Release(&hints), PyBuffer_Release(&hint_offsets);
    PyBuffer_Release(&sums), PyBuffer_Release(&out);
    if (!valid) return PyErr_Format(PyExc_ValueError, "read_reflected: cuts, entries, offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

/* ---- count_chars --------------------------------------------------------------------------- */

PyDoc_STRVAR(count_chars_doc,
             "count_chars(text, offsets, counts) -> None\n\n"
             "counts int64[M]: characters in each of the M byte ranges text[offsets[i]:offsets[i+1]].");

static PyObject *count_chars(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, counts;
    if (!PyArg_ParseTuple(args, "y*y*w*", &text, &offsets, &counts)) return NULL;
    const int64_t *at = offsets.buf;
    int64_t n = COUNT(offsets, int64_t);
    int valid = COUNT(counts, int64_t) == n - 1;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, text.len);
    for (int64_t i = 0; valid && i < n - 1; i++) {
        int64_t chars = 0;
        for (const u8 *p = (const u8 *)text.buf + at[i], *end = (const u8 *)text.buf + at[i + 1]; p < end; p++)
            chars += (*p & 0xC0) != 0x80;
        ((int64_t *)counts.buf)[i] = chars;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&text), PyBuffer_Release(&offsets), PyBuffer_Release(&counts);
    if (!valid) return PyErr_Format(PyExc_ValueError, "count_chars: offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

/* ---- find_characters ----------------------------------------------------------------------- */

PyDoc_STRVAR(find_characters_doc,
             "find_characters(text, offsets, characters, found) -> None\n\n"
             "found uint8[N]: 1 for a document with a character beyond ASCII whose bit is set in `characters`,\n"
             "one bit for each of the 0x110000 code points, low bits first.");

static int has_character(const u8 *p, const u8 *end, const u8 *bits) {
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8 && (memcpy(&eight, p, 8), !(eight & 0x8080808080808080ULL))) {
            p += 8;
            continue;
        }
        if (*p < 0x80) {
            p++;
            continue;
        }
        int n = *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
        if (end - p < n) return 0;
        uint32_t c = n == 4 ? (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 |
                                  (uint32_t)(p[2] & 0x3F) << 6 | (p[3] & 0x3F)
                            : code_point(p, p + n);
        if (c < 0x110000 && bits[c >> 3] >> (c & 7) & 1) return 1;
        p += n;
    }
    return 0;
}

static PyObject *find_characters(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, characters, found;
    if (!PyArg_ParseTuple(args, "y*y*y*w*", &text, &offsets, &characters, &found)) return NULL;
    const int64_t *at = offsets.buf;
    int64_t n = COUNT(offsets, int64_t);
    int valid = found.len == n - 1 && characters.len == 0x110000 / 8;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, text.len);
    for (int64_t i = 0; valid && i < n - 1; i++)
        ((u8 *)found.buf)[i] =
            (u8)has_character((const u8 *)text.buf + at[i], (const u8 *)text.buf + at[i + 1], characters.buf);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&text), PyBuffer_Release(&offsets), PyBuffer_Release(&characters), PyBuffer_Release(&found);
    if (!valid) return PyErr_Format(PyExc_ValueError, "find_characters: offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"pack", pack, METH_VARARGS, pack_doc},
                                {"unescape", unescape, METH_VARARGS, unescape_doc},
                                {"segment", segment, METH_VARARGS, segment_doc},
                                {"align", align, METH_VARARGS, align_doc},
                                {"interleave", interleave, METH_VARARGS, interleave_doc},
                                {"reflected_lengths", reflected_lengths, METH_VARARGS, reflected_lengths_doc},
                                {"read_reflected", read_reflected, METH_VARARGS, read_reflected_doc},
                                {"find_characters", find_characters, METH_VARARGS, find_characters_doc},
                                {"count_chars", count_chars, METH_VARARGS, count_chars_doc},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernels", "See the head of _kernels.c.", -1, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&module); }
