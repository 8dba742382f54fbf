/* The inner loops over text, for whole batches of documents.
 *
 *   pack             strings into one buffer
 *   unescape         JSON strings into one buffer
 *   segment          where to cut the text, as segmentation.py defines it
 *   count_chars      bytes to characters
 *   find_characters  which documents contain certain characters
 *
 * segmentation.py holds the plain-Python definition, and the tests compare the two on random input. All but pack, which
 * reads Python objects, release the GIL. Text must be valid UTF-8.
 */
#include "../_arrays.h"

static inline int is_alpha(u8 c) { return (u8)((c | 32) - 'a') < 26; }
static inline int is_digit(u8 c) { return (u8)(c - '0') < 10; }

/* ---- pack ---------------------------------------------------------------------------------- */

PyDoc_STRVAR(pack_doc,
             "pack(texts, offsets) -> bytes\n\n"
             "The UTF-8 of a list of N strings, one after the other; offsets int64[N+1] receives where each\n"
             "begins and ends. Several times faster than growing an Arrow array: the size is known first.");

static PyObject *pack(PyObject *self, PyObject *args) {
    PyObject *texts, *result = NULL;
    Py_buffer offsets;
    if (!PyArg_ParseTuple(args, "O!O&", &PyList_Type, &texts, out_i8, &offsets)) return NULL;
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
    RELEASE(&offsets);
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

/* The escape sequence at p, after its backslash, written to *out; returns what follows it, NULL where it
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
             "The content of N JSON strings (bytes-like, with their quotes), one after the other; offsets int64[N+1]\n"
             "receives where each begins and ends. bad uint8[N]: 1 for one that is not valid, which counts as empty.\n"
             "What is not escaped is copied as it is: whether it is UTF-8 is for the caller to check.");

static PyObject *unescape(PyObject *self, PyObject *args) {
    PyObject *strings, *result = NULL;
    Py_buffer offsets, bad, *own = NULL;
    if (!PyArg_ParseTuple(args, "O!O&O&", &PyList_Type, &strings, out_i8, &offsets, out_u1, &bad)) return NULL;
    int64_t *at = offsets.buf, n = PyList_GET_SIZE(strings), held = 0, room = 0;
    if (COUNT(offsets, int64_t) != n + 1 || bad.len != n) {
        PyErr_SetString(PyExc_ValueError, "unescape: offsets or sizes do not fit together");
        goto done;
    }
    if (!(own = PyMem_Malloc((size_t)(n + 1) * sizeof *own))) {
        PyErr_NoMemory();
        goto done;
    }
    for (; held < n; held++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(strings, held), &own[held], PyBUF_SIMPLE)) goto done;
        room += own[held].len;
    }
    if (!(result = PyBytes_FromStringAndSize(NULL, room))) goto done;
    u8 *begin = (u8 *)PyBytes_AS_STRING(result), *out = begin;
    Py_BEGIN_ALLOW_THREADS
    at[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        u8 *end = put_string(own[i].buf, (const u8 *)own[i].buf + own[i].len, out);
        ((u8 *)bad.buf)[i] = end == NULL;
        out = end ? end : out;
        at[i + 1] = out - begin;
    }
    Py_END_ALLOW_THREADS
    _PyBytes_Resize(&result, out - begin);
done:
    while (held) PyBuffer_Release(&own[--held]);
    PyMem_Free(own);
    RELEASE(&offsets, &bad);
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

/* The first byte of the character after the one at p. */
static inline const u8 *following(const u8 *p, const u8 *end) {
    do p++;
    while (p < end && (*p & 0xC0) == 0x80);
    return p;
}

/* The code point of the character [p, end). */
static inline uint32_t code_point(const u8 *p, const u8 *end) {
    switch (end - p) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    case 3: return (uint32_t)(p[0] & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    case 4:
        return (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 |
               (p[3] & 0x3F);
    default: return 0xFFFFFFFF;
    }
}

enum { CODE_POINTS = 0x110000 };

static inline int is_graphic(u8 c) { return (u8)(c - 33) < 94; } /* ASCII, not a space or control character */

/* ---- segment: sentences -------------------------------------------------------------------- */

typedef struct {
    const char *of_letter[26]; /* where the words of that first letter begin: "jan\njr\n..." */
} Abbreviations;

typedef struct {
    const u8 *begin, *words_end, *end; /* the document; words_end: the end of its last word */
    const Abbreviations *abbreviations;
    const uint16_t *classes; /* by code point, as unicode_classes.py has them: sentence + 256 * cluster */
} Document;

/* unicode_classes.Sentence and sets of it, as bits. */
enum { TERM = 1, FULL_STOP, STOP, CLOSING, OPENING, EXTENDING, UPPER, LOWER, NUMERIC };
enum {
    CASE_OR_DIGIT = 1 << UPPER | 1 << LOWER | 1 << NUMERIC,
    QUOTES = 1 << CLOSING | 1 << OPENING,
    AFTER_STOP = QUOTES | 1 << EXTENDING,
    RUN = 1 << TERM | 1 << FULL_STOP | 1 << STOP | 1 << CLOSING | 1 << EXTENDING,
};

static inline unsigned classes_of(const Document *d, const u8 *p, const u8 *end) {
    if (*p < 0x80) return d->classes[*p];
    uint32_t c = code_point(p, end);
    return c < CODE_POINTS ? d->classes[c] : 0;
}
static inline int is_lower(const Document *d, const u8 *p) {
    return *p < 0x80 ? (u8)(*p - 'a') < 26 : (classes_of(d, p, following(p, d->end)) & 255) == LOWER;
}
/* The Sentence of the character [p, end), as a bit. */
static inline unsigned sentence_bit(const Document *d, const u8 *p, const u8 *end) {
    return 1u << (classes_of(d, p, end) & 255);
}

/* `words` is sorted, lowercase, and has a newline after every word. */
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
        const u8 *next = following(from, stop);
        if (!(sentence_bit(d, from, next) & QUOTES)) break;
        from = next;
    }
    unsigned letters = 0, digits = 0, others = 0;
    for (const u8 *p = from, *next; p < stop && letters + digits + others < 3; p = next) {
        next = following(p, stop);
        unsigned bit = sentence_bit(d, p, next);
        letters += (bit & (1 << UPPER | 1 << LOWER)) != 0;
        digits += (bit & 1 << NUMERIC) != 0;
        others += !(bit & CASE_OR_DIGIT);
    }
    if (!others && (letters + digits == 1 || (!letters && digits == 2))) return 0;
    return !is_abbreviation(d, from, stop);
}

/* Whether a sentence ends at p, directly after a word. */
static int word_ends_sentence(const Document *d, const u8 *p) {
    int newlines = 0;
    const u8 *next = p;
    for (int n; next < d->end && (n = space_length(next, d->end)) > 0; next += n) newlines += *next == '\n';
    int lowercase_follows = next < d->end && is_lower(d, next);
    if (next == d->end || newlines > 1 || (newlines == 1 && !lowercase_follows)) return 1;
    if (lowercase_follows) return 0;
    while (p > d->begin) {
        const u8 *q = previous(p, d->begin);
        unsigned bit = sentence_bit(d, q, p);
        if (bit & 1 << STOP) return *q == '.' ? full_stop_ends(d, q) : 1;
        if (!(bit & AFTER_STOP)) return 0;
        p = q;
    }
    return 0;
}

/* Whether a run of stops and closing quotes ends at p that has a stop which needs no space after it. */
static int run_ends_sentence(const Document *d, const u8 *p) {
    unsigned next = p < d->end ? sentence_bit(d, p, following(p, d->end)) : 1;
    if (next & RUN) return 0; /* the run continues */
    int last = 1;
    while (p > d->begin) {
        const u8 *q = previous(p, d->begin);
        unsigned bit = sentence_bit(d, q, p);
        if (bit & 1 << TERM || (bit & 1 << FULL_STOP && !(last && next & CASE_OR_DIGIT))) return 1;
        if (!(bit & RUN)) return 0;
        p = q;
        last = 0;
    }
    return 0;
}

/* Whether such a run may end with the character [q, p): most of ASCII is known from the character before it. */
static inline int may_end_run(const Document *d, const u8 *q, const u8 *p) {
    if (!(sentence_bit(d, q, p) & RUN)) return 0;
    return *q >= 0x80 || (q > d->begin && (q[-1] >= 0x80 || 1u << (d->classes[q[-1]] & 255) & RUN));
}

/* ---- segment: grapheme clusters ------------------------------------------------------------ */

/* unicode_classes.Cluster. */
enum {
    CONTROL = 1, EXTEND, OTHER_EXTEND, LINKER, ZWJ, REGIONAL, PREPEND, SPACING_MARK,
    HANGUL_L, HANGUL_V, HANGUL_T, HANGUL_LV, HANGUL_LVT, PICTOGRAPH, CONSONANT, FIRST_LINKER
};

static int is_extend(unsigned kind) { return kind == EXTEND || kind == OTHER_EXTEND || kind == LINKER; }

/* Whether a cluster continues between two characters of these classes, whatever is before them. */
static int joins(unsigned before, unsigned kind) {
    if (before == CONTROL || kind == CONTROL) return 0;
    if (is_extend(kind) || kind == ZWJ || kind == SPACING_MARK || before == PREPEND) return 1;
    if (before == HANGUL_L) return kind == HANGUL_L || kind == HANGUL_V || kind == HANGUL_LV || kind == HANGUL_LVT;
    if (before == HANGUL_LV || before == HANGUL_V) return kind == HANGUL_V || kind == HANGUL_T;
    return (before == HANGUL_LVT || before == HANGUL_T) && kind == HANGUL_T;
}

/* The last end of a grapheme cluster in (first, limit], where `first` begins one; else `limit`. */
static const u8 *last_cluster_end(const Document *d, const u8 *first, const u8 *limit) {
    const u8 *last = NULL;
    unsigned before = 0, linked = 0, regional = 0, pictograph = 0; /* pictograph 2: after its joiner */
    for (const u8 *p = first, *next; p <= limit && p < d->end; p = next) {
        next = following(p, d->end);
        unsigned kind = classes_of(d, p, next) >> 8;
        int joined = joins(before, kind) || (linked && kind == CONSONANT) || (pictograph == 2 && kind == PICTOGRAPH) ||
                     (regional % 2 && kind == REGIONAL);
        if (p > first && !joined) last = p;
        linked = kind == LINKER || kind == FIRST_LINKER || (linked && (kind == EXTEND || kind == ZWJ));
        regional = kind == REGIONAL ? regional + 1 : 0;
        pictograph = kind == PICTOGRAPH ? 1 : kind == ZWJ ? 2 * (pictograph == 1) : pictograph == 1 && is_extend(kind);
        before = kind;
    }
    return last ? last : limit;
}

/* ---- segment: words ------------------------------------------------------------------------ */

enum { BLOCK = 64, BEFORE = 3, AFTER = 2 };

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
 * spaces about, look closely. Reads p[-BEFORE..BLOCK+AFTER). */
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

/* The end of the `max_words`-th word from `first` on (the first byte of a word), or `limit` if that comes
 * first. */
static const u8 *skip_words(const Document *d, const u8 *first, const u8 *limit, int64_t max_words) {
    const u8 *p = first + 1;
    for (;;) {
        int whole = p - BEFORE >= d->begin && p + BLOCK + AFTER <= d->end && p + BLOCK <= limit;
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

/* Whether only a letter, a space and another word meet at p: no sentence ends there, and nearly all words of English
 * end so. The general case below says the same, in five times the time. */
static inline int is_plain_word_end(const Document *d, const u8 *p) {
    return *p == ' ' && is_alpha(p[-1]) && p + 1 < d->end && is_graphic(p[1]);
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
    for (const u8 *p = limit, *q, *end; p >= first && p > d->begin; p = q) {
        while (p > first) {
            if (is_plain_word_end(d, p)) word_end = word_end ? word_end : p;
            else if (!is_graphic(p[0]) || p[-1] >= 0x80) break; /* not inside a word of ASCII letters */
            p--;
        }
        if (p == d->begin) break;
        q = previous(p, d->begin);
        end = p; /* of a run that began before the ASCII just passed */
        if (*q >= 0x80 || p == first)
            while (end < limit && *end < 0x80 && sentence_bit(d, end, end + 1) & RUN) end++;
        if (end > first && may_end_run(d, q, p) && run_ends_sentence(d, end)) return end;
        if (p == first) break;
        if (!space_length(p, d->end) || space_length(q, d->end)) continue;
        if (word_ends_sentence(d, p)) return p;
        if (!word_end) word_end = p;
    }
    return word_end ? word_end : last_cluster_end(d, first, limit);
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
             "segment(text, offsets, max_words, max_bytes, abbreviations, classes, segment_offsets) -> bytes\n\n"
             "Byte offsets int64[S] at which the segments of the batch end, as bytes; segment_offsets\n"
             "int64[N+1] receives which of them belong to each document. classes uint16[0x110000]: of the\n"
             "characters, by code point.");

static PyObject *segment(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, classes, out;
    long long max_words, max_bytes;
    const char *words;
    if (!PyArg_ParseTuple(args, "O&O&LLsO&O&", as_u1, &text, as_i8, &offsets, &max_words, &max_bytes, &words, as_u2,
                          &classes, out_i8, &out))
        return NULL;
    Abbreviations abbreviations;
    index_abbreviations(words, &abbreviations);
    const int64_t *at = offsets.buf;
    int64_t *segment_offsets = out.buf, n = COUNT(offsets, int64_t);
    Vector ends = {0};
    int valid = out.len == offsets.len && max_words > 0 && max_bytes > 4 && COUNT(classes, uint16_t) == CODE_POINTS;
    int memory = 1;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, text.len);
    for (int64_t i = 0; valid && memory && i < n - 1; i++) {
        const u8 *base = text.buf;
        Document d = {base + at[i], NULL, base + at[i + 1], &abbreviations, classes.buf};
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
    RELEASE(&text, &offsets, &classes, &out);
    return result;
}

/* ---- count_chars --------------------------------------------------------------------------- */

PyDoc_STRVAR(count_chars_doc,
             "count_chars(text, offsets, counts) -> None\n\n"
             "counts int64[M]: characters in each of the M byte ranges text[offsets[i]:offsets[i+1]].");

static PyObject *count_chars(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, counts;
    if (!PyArg_ParseTuple(args, "O&O&O&", as_u1, &text, as_i8, &offsets, out_i8, &counts)) return NULL;
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
    RELEASE(&text, &offsets, &counts);
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
        uint32_t c = code_point(p, p + n);
        if (c < CODE_POINTS && bits[c >> 3] >> (c & 7) & 1) return 1;
        p += n;
    }
    return 0;
}

static PyObject *find_characters(PyObject *self, PyObject *args) {
    Py_buffer text, offsets, characters, found;
    if (!PyArg_ParseTuple(args, "O&O&O&O&", as_u1, &text, as_i8, &offsets, as_u1, &characters, out_u1, &found))
        return NULL;
    const int64_t *at = offsets.buf;
    int64_t n = COUNT(offsets, int64_t);
    int valid = found.len == n - 1 && characters.len == CODE_POINTS / 8;
    Py_BEGIN_ALLOW_THREADS
    valid = valid && good_offsets(at, n, text.len);
    for (int64_t i = 0; valid && i < n - 1; i++)
        ((u8 *)found.buf)[i] =
            (u8)has_character((const u8 *)text.buf + at[i], (const u8 *)text.buf + at[i + 1], characters.buf);
    Py_END_ALLOW_THREADS
    RELEASE(&text, &offsets, &characters, &found);
    if (!valid) return PyErr_Format(PyExc_ValueError, "find_characters: offsets or sizes do not fit together");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"pack", pack, METH_VARARGS, pack_doc},
    {"unescape", unescape, METH_VARARGS, unescape_doc},
    {"segment", segment, METH_VARARGS, segment_doc},
    {"count_chars", count_chars, METH_VARARGS, count_chars_doc},
    {"find_characters", find_characters, METH_VARARGS, find_characters_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_text", "See the head of _text.c.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__text(void) { return PyModule_Create(&module); }
