/* The compiled twin of wire_python.py: the functions that touch every message.

   wire.py calls it where it is there, and wire_python.py says what each function is for. Each of these gives the same
   bytes as its twin, or None: "this is not the plain case, let the other one do it". So a wrong type inside of a
   sequence, a number that does not fit, or a broken chunk is never an error here: the twin meets it again, and says what
   is wrong. A function raises TypeError for a wrong number or type of arguments, and MemoryError.

   No size that a peer claims is trusted. What is read lies between two pointers that were checked first; an offset is
   compared with the bytes that are left before it is added to anything; and what is allocated follows from bytes that
   are there. All sizes are size_t, also where that has 32 bits.

   The GIL is held throughout, and no Python code runs between two looks at a list, so that it cannot change meanwhile.
   A call takes as long as a few passes over its bytes: milliseconds for the largest frame.

   Only the limited API of Python 3.11 is used: one library serves all later versions. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define CRC_BY_CLMUL 1
#include <immintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#define CRC_BY_ARM 1
#include <arm_acle.h>
#endif

/* Which source this was made from: the build says it, and wire_choice.py compares it. */
#ifndef WIRE_SOURCE
#define WIRE_SOURCE "unknown"
#endif

/* The first bytes of a data section, as one number: with a size of one byte behind them, or of four. */
#define DATA8 UINT32_C(0x005375a0)
#define DATA32 UINT32_C(0x005375b0)
#define SHORT_BODY 255u

/* Bytes before a body of up to SHORT_BODY bytes in its entry, and before a longer one. */
#define SHORT_HEAD 9u
#define LONG_HEAD 12u

/* The smallest number in place of an entry's size that says: this is a sub-entry. */
#define SUB_BATCH_SIZE UINT32_C(0x80000000)

/* A longer body is not found in a chunk that has shorter ones than SHORT_BODY too: the twin does not. */
#define MIXED_BODY (UINT32_C(1) << 24)

/* A Publish frame: size, key, version, publisher's id and count; then of each message its id, and what is before it. */
#define FRAME_HEAD 13u
#define PUBLISH_KEY 2u


/* Numbers in network byte order. */

static inline uint32_t
load_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline uint64_t
load_u64(const uint8_t *at)
{
    return (uint64_t)load_u32(at) << 32 | load_u32(at + 4);
}

static inline uint8_t *
store_u32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
    return at + 4;
}

static inline uint8_t *
store_u64(uint8_t *at, uint64_t value)
{
    return store_u32(store_u32(at, (uint32_t)(value >> 32)), (uint32_t)value);
}

/* Copies bytes, and returns where the next ones go. */
static inline uint8_t *
store_bytes(uint8_t *at, const void *from, size_t size)
{
    memcpy(at, from, size);
    return at + size;
}


/* Arguments. */

/* A part of a bytes object. */
typedef struct {
    const uint8_t *begin;
    const uint8_t *end;
} Span;

/* What became of an argument, or of a step. */
typedef enum {
    FAILED = -1, /* with an exception */
    OTHER = 0,   /* not the plain case: the function returns None */
    OK = 1
} Found;

static PyObject *
not_plain(void)
{
    Py_INCREF(Py_None);
    return Py_None;
}

/* Ends a function that has not found what it needs. */
static PyObject *
given_up(Found found)
{
    return found == FAILED ? NULL : not_plain();
}

static int
has_arguments(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted) {
        return 1;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, given);
    return 0;
}

/* Finds a number that is not below zero, and fits. */
static Found
size_argument(PyObject *argument, size_t *value)
{
    *value = PyLong_AsSize_t(argument);
    if (*value == (size_t)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            return OTHER;
        }
        return FAILED;
    }
    return OK;
}

/* Finds a number of up to 64 bits. */
static Found
number_argument(PyObject *argument, uint64_t *value)
{
    *value = PyLong_AsUnsignedLongLong(argument);
    if (*value == UINT64_MAX && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            return OTHER;
        }
        return FAILED;
    }
    return OK;
}

/* Finds the bytes of a bytes object. */
static Found
bytes_argument(PyObject *argument, Span *span)
{
    char *begin;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(argument, &begin, &size) < 0) {
        return FAILED;
    }
    span->begin = (const uint8_t *)begin;
    span->end = span->begin + size;
    return OK;
}

/* Finds data[start:end], of three arguments. It must lie in the data. */
static Found
span_arguments(PyObject *const *arguments, Span *span)
{
    size_t start, end;
    Found found;
    if ((found = bytes_argument(arguments[0], span)) != OK || (found = size_argument(arguments[1], &start)) != OK
        || (found = size_argument(arguments[2], &end)) != OK) {
        return found;
    }
    if (start > end || end > (size_t)(span->end - span->begin)) {
        return OTHER;
    }
    span->end = span->begin + end;
    span->begin += start;
    return OK;
}

static inline size_t
size_of(const Span *span)
{
    return (size_t)(span->end - span->begin);
}

/* A list or a tuple. What it holds is looked at without keeping a reference: see the top of this file. */
typedef struct {
    PyObject *object;
    size_t count;
    int is_list;
} Items;

static Found
items_argument(PyObject *argument, Items *items)
{
    items->object = argument;
    items->is_list = PyList_CheckExact(argument);
    if (!items->is_list && !PyTuple_CheckExact(argument)) {
        return OTHER;
    }
    items->count = (size_t)(items->is_list ? PyList_Size(argument) : PyTuple_Size(argument));
    return OK;
}

static inline PyObject *
item_at(const Items *items, size_t place)
{
    return items->is_list ? PyList_GetItem(items->object, (Py_ssize_t)place)
                          : PyTuple_GetItem(items->object, (Py_ssize_t)place);
}

/* Finds the bytes of an item. Of anything but a bytes object the twin knows more. */
static inline Found
item_bytes(const Items *items, size_t place, Span *span)
{
    PyObject *item = item_at(items, place);
    if (item == NULL) {
        return FAILED;
    }
    if (!PyBytes_CheckExact(item)) {
        return OTHER;
    }
    return bytes_argument(item, span);
}

/* Publishing ids: consecutive ones from the first on, or items. */
typedef struct {
    Items items;
    uint64_t first;
    size_t count;
    int is_run;
} Ids;

/* Finds an attribute of a range, as a number of 64 bits. */
static Found
range_number(PyObject *range, const char *name, uint64_t *value)
{
    PyObject *number = PyObject_GetAttrString(range, name);
    if (number == NULL) {
        return FAILED;
    }
    *value = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (*value == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear(); /* below zero, or too large */
        return OTHER;
    }
    return OK;
}

static Found
ids_argument(PyObject *argument, Ids *ids)
{
    uint64_t step;
    Py_ssize_t length;
    Found found;
    memset(ids, 0, sizeof *ids);
    ids->is_run = Py_IS_TYPE(argument, &PyRange_Type);
    if (!ids->is_run) {
        found = items_argument(argument, &ids->items);
        ids->count = ids->items.count;
        return found;
    }
    length = PyObject_Size(argument);
    if (length < 0) {
        PyErr_Clear(); /* more than fit */
        return OTHER;
    }
    if ((found = range_number(argument, "start", &ids->first)) != OK
        || (found = range_number(argument, "step", &step)) != OK) {
        return found;
    }
    if (step != 1 || (length && (uint64_t)(length - 1) > UINT64_MAX - ids->first)) {
        return OTHER;
    }
    ids->count = (size_t)length;
    return OK;
}

static inline Found
id_at(const Ids *ids, size_t place, uint64_t *id)
{
    PyObject *item;
    if (ids->is_run) {
        *id = ids->first + place;
        return OK;
    }
    item = item_at(&ids->items, place);
    if (item == NULL) {
        return FAILED;
    }
    if (!PyLong_CheckExact(item)) {
        return OTHER;
    }
    *id = PyLong_AsUnsignedLongLong(item);
    if (*id == UINT64_MAX && PyErr_Occurred()) {
        PyErr_Clear();
        return OTHER;
    }
    return OK;
}

/* Makes a bytes object of this size, and finds its bytes. Nobody else has it until it is returned. */
static PyObject *
new_bytes(size_t size, uint8_t **at)
{
    PyObject *made;
    if (size > PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    made = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (made != NULL) {
        *at = (uint8_t *)PyBytes_AsString(made);
    }
    return made;
}

/* Adds to a size. Returns 0 where the sum does not fit. */
static inline int
add_size(size_t *sum, size_t more)
{
    if (more > (size_t)PY_SSIZE_T_MAX - *sum) {
        return 0;
    }
    *sum += more;
    return 1;
}

/* Multiplies two sizes. Returns 0 where the product does not fit. */
static inline int
multiply_sizes(size_t one, size_t other, size_t *product)
{
    if (other && one > (size_t)PY_SSIZE_T_MAX / other) {
        return 0;
    }
    *product = one * other;
    return 1;
}


/* Entries to messages. */

/* Finds the message of the entry at `at`. Returns where it ends; NULL where it does not end by `end`. */
static inline const uint8_t *
next_entry(const uint8_t *at, const uint8_t *end, size_t *size)
{
    if ((size_t)(end - at) < 4) {
        return NULL;
    }
    *size = load_u32(at);
    at += 4;
    return *size > (size_t)(end - at) ? NULL : at + *size;
}

/* Finds the body of the plain message in the entry at `at`: a single data section in its shortest form. Returns where it
   ends; NULL where it does not end by `end`, or is no such message. */
static inline const uint8_t *
next_body(const uint8_t *at, const uint8_t *end, size_t *size)
{
    size_t left = (size_t)(end - at);
    uint32_t whole, section;
    if (left < SHORT_HEAD) {
        return NULL;
    }
    whole = load_u32(at);
    section = load_u32(at + 4);
    if (section == DATA8) {
        *size = at[8];
        if (whole != *size + (SHORT_HEAD - 4) || *size > left - SHORT_HEAD) {
            return NULL;
        }
        return at + SHORT_HEAD + *size;
    }
    if (section == DATA32 && left >= LONG_HEAD) {
        uint32_t claimed = load_u32(at + 8);
        if (claimed <= SHORT_BODY || claimed >= SUB_BATCH_SIZE - (LONG_HEAD - 4) || whole != claimed + (LONG_HEAD - 4)
            || claimed > left - LONG_HEAD) {
            return NULL;
        }
        *size = claimed;
        return at + LONG_HEAD + claimed;
    }
    return NULL;
}

/* What plain messages are together. */
typedef struct {
    size_t count;
    size_t size;    /* bytes of their bodies */
    size_t longest; /* of their bodies */
} Bodies;

/* Looks whether a span is nothing but so many plain messages. */
static Found
measure_bodies(Span span, size_t count, Bodies *bodies)
{
    const uint8_t *at = span.begin;
    size_t size, shortest = SIZE_MAX;
    if (!count || count > size_of(&span) / SHORT_HEAD) {
        return OTHER;
    }
    bodies->count = count;
    bodies->size = bodies->longest = 0;
    for (size_t place = 0; place < count; place++) {
        at = next_body(at, span.end, &size);
        if (at == NULL) {
            return OTHER;
        }
        bodies->size += size; /* no more than the span */
        bodies->longest = size > bodies->longest ? size : bodies->longest;
        shortest = size < shortest ? size : shortest;
    }
    if (at != span.end || (shortest <= SHORT_BODY && bodies->longest >= MIXED_BODY)) {
        return OTHER;
    }
    return OK;
}

/* Finds data[start:end] and a number of plain messages that it is nothing but, of four arguments. */
static Found
bodies_arguments(PyObject *const *arguments, Span *span, Bodies *bodies)
{
    size_t count;
    Found found;
    if ((found = span_arguments(arguments, span)) != OK || (found = size_argument(arguments[3], &count)) != OK) {
        return found;
    }
    return measure_bodies(*span, count, bodies);
}

PyDoc_STRVAR(split_doc,
"split(data, start, end, count)\n--\n\n"
"Returns the messages of entries as a list; None where they are not exactly data[start:end].");

static PyObject *
split(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    size_t count;
    Found found;
    const uint8_t *at, *next;
    PyObject *messages;
    if (!has_arguments("split", given, 4)) {
        return NULL;
    }
    if ((found = span_arguments(arguments, &span)) != OK || (found = size_argument(arguments[3], &count)) != OK) {
        return given_up(found);
    }
    if (count > size_of(&span) / 4) {
        return not_plain();
    }
    messages = PyList_New((Py_ssize_t)count);
    if (messages == NULL) {
        return NULL;
    }
    at = span.begin;
    for (size_t place = 0; place < count; place++, at = next) {
        size_t size;
        PyObject *message;
        next = next_entry(at, span.end, &size);
        if (next == NULL) {
            Py_DECREF(messages);
            return not_plain();
        }
        message = PyBytes_FromStringAndSize((const char *)(next - size), (Py_ssize_t)size);
        if (message == NULL || PyList_SetItem(messages, (Py_ssize_t)place, message) < 0) {
            Py_DECREF(messages);
            return NULL;
        }
    }
    if (at != span.end) {
        Py_DECREF(messages);
        return not_plain();
    }
    return messages;
}

PyDoc_STRVAR(plain_bodies_doc,
"plain_bodies(data, start, end, count)\n--\n\n"
"Returns the bodies of plain messages as a list; None where their entries are not exactly data[start:end].");

static PyObject *
plain_bodies(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    Bodies bodies;
    Found found;
    const uint8_t *at;
    PyObject *list;
    if (!has_arguments("plain_bodies", given, 4)) {
        return NULL;
    }
    if ((found = bodies_arguments(arguments, &span, &bodies)) != OK) {
        return given_up(found);
    }
    list = PyList_New((Py_ssize_t)bodies.count);
    if (list == NULL) {
        return NULL;
    }
    at = span.begin;
    for (size_t place = 0; place < bodies.count; place++) {
        size_t size = 0;
        PyObject *body;
        at = next_body(at, span.end, &size);
        body = PyBytes_FromStringAndSize((const char *)(at - size), (Py_ssize_t)size);
        if (body == NULL || PyList_SetItem(list, (Py_ssize_t)place, body) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

PyDoc_STRVAR(measure_plain_doc,
"measure_plain(data, start, end, count)\n--\n\n"
"Returns how many bytes the bodies of plain messages have together, and the longest one; None where their entries are\n"
"not exactly data[start:end].");

static PyObject *
measure_plain(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    Bodies bodies;
    Found found;
    if (!has_arguments("measure_plain", given, 4)) {
        return NULL;
    }
    if ((found = bodies_arguments(arguments, &span, &bodies)) != OK) {
        return given_up(found);
    }
    return Py_BuildValue("(nn)", (Py_ssize_t)bodies.size, (Py_ssize_t)bodies.longest);
}

PyDoc_STRVAR(plain_lines_doc,
"plain_lines(data, start, end, count, delimiter)\n--\n\n"
"Returns the bodies of plain messages with the delimiter behind each, as one bytes object; None where their entries are\n"
"not exactly data[start:end].");

static PyObject *
plain_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span, delimiter;
    Bodies bodies;
    Found found;
    const uint8_t *at;
    uint8_t *out = NULL;
    size_t width, total;
    PyObject *lines;
    if (!has_arguments("plain_lines", given, 5)) {
        return NULL;
    }
    if ((found = bytes_argument(arguments[4], &delimiter)) != OK
        || (found = bodies_arguments(arguments, &span, &bodies)) != OK) {
        return given_up(found);
    }
    width = size_of(&delimiter);
    if (!multiply_sizes(bodies.count, width, &total) || !add_size(&total, bodies.size)) {
        return PyErr_NoMemory();
    }
    lines = new_bytes(total, &out);
    if (lines == NULL) {
        return NULL;
    }
    at = span.begin;
    for (size_t place = 0; place < bodies.count; place++) {
        size_t size = 0;
        at = next_body(at, span.end, &size);
        out = store_bytes(out, at - size, size);
        if (width == 1) {
            *out++ = *delimiter.begin;
        }
        else {
            out = store_bytes(out, delimiter.begin, width);
        }
    }
    return lines;
}


/* Messages to entries and frames. */

/* Bytes before a body of this size in its message. */
static inline size_t
section_head(size_t size)
{
    return size <= SHORT_BODY ? SHORT_HEAD - 4 : LONG_HEAD - 4;
}

/* Writes what is before a body in its entry: the size of the message, and the head of its section. */
static inline uint8_t *
store_section(uint8_t *at, size_t size)
{
    at = store_u32(at, (uint32_t)(section_head(size) + size));
    if (size <= SHORT_BODY) {
        at = store_u32(at, DATA8);
        *at++ = (uint8_t)size;
        return at;
    }
    return store_u32(store_u32(at, DATA32), (uint32_t)size);
}

/* Adds up what messages take behind their sizes. `are_bodies`: they are the bodies of plain messages. `beside`: bytes
   that each takes beside itself. A message that no entry can hold is not plain. */
static Found
measure_items(const Items *items, int are_bodies, size_t beside, size_t *total)
{
    for (size_t place = 0; place < items->count; place++) {
        Span item;
        size_t size;
        Found found = item_bytes(items, place, &item);
        if (found != OK) {
            return found;
        }
        size = size_of(&item);
        if (size >= SUB_BATCH_SIZE - LONG_HEAD) {
            return OTHER;
        }
        if (are_bodies) {
            size += section_head(size);
        }
        if (!add_size(total, size + beside)) {
            return OTHER;
        }
    }
    return OK;
}

/* Writes the size of a message, and the message itself. */
static inline uint8_t *
store_item(uint8_t *at, const Span *item, int is_body)
{
    size_t size = size_of(item);
    at = is_body ? store_section(at, size) : store_u32(at, (uint32_t)size);
    return store_bytes(at, item->begin, size);
}

/* Returns the entries of messages. */
static PyObject *
join(PyObject *const *arguments, int are_bodies)
{
    Items items;
    size_t total = 0;
    uint8_t *out = NULL;
    Found found;
    PyObject *made;
    if ((found = items_argument(arguments[0], &items)) != OK
        || (found = measure_items(&items, are_bodies, 4, &total)) != OK) {
        return given_up(found);
    }
    made = new_bytes(total, &out);
    if (made == NULL) {
        return NULL;
    }
    for (size_t place = 0; place < items.count; place++) {
        Span item;
        if (item_bytes(&items, place, &item) != OK) { /* it was a bytes object a moment ago */
            Py_DECREF(made);
            return NULL;
        }
        out = store_item(out, &item, are_bodies);
    }
    return made;
}

PyDoc_STRVAR(join_entries_doc,
"join_entries(messages)\n--\n\n"
"Returns each message behind its size; None where one is not bytes, or too large.");

static PyObject *
join_entries(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    return has_arguments("join_entries", given, 1) ? join(arguments, 0) : NULL;
}

PyDoc_STRVAR(join_plain_doc,
"join_plain(bodies)\n--\n\n"
"Returns the plain message of each body behind its size; None where one is not bytes, or too large.");

static PyObject *
join_plain(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    return has_arguments("join_plain", given, 1) ? join(arguments, 1) : NULL;
}

/* Writes the head of a Publish frame of so many bytes behind its size, which fits. */
static uint8_t *
store_frame_head(uint8_t *at, size_t size, unsigned version, uint8_t publisher_id, size_t count)
{
    at = store_u32(at, (uint32_t)size);
    at = store_u32(at, PUBLISH_KEY << 16 | version);
    *at++ = publisher_id;
    return store_u32(at, (uint32_t)count);
}

static Found
publisher_argument(PyObject *argument, uint8_t *publisher_id)
{
    size_t value;
    Found found = size_argument(argument, &value);
    if (found == OK && value > UINT8_MAX) {
        return OTHER;
    }
    *publisher_id = (uint8_t)value;
    return found;
}

/* Returns the Publish frame of messages, or of the plain messages with these bodies. `filters`: NULL, or what stands
   before the size of each message. */
static PyObject *
publish(PyObject *const *arguments, PyObject *filters_argument, int are_bodies)
{
    uint8_t publisher_id;
    Ids ids;
    Items items, filters = {NULL, 0, 0};
    size_t total = FRAME_HEAD;
    uint8_t *out = NULL;
    Found found;
    PyObject *frame;
    if ((found = publisher_argument(arguments[0], &publisher_id)) != OK
        || (found = ids_argument(arguments[1], &ids)) != OK || (found = items_argument(arguments[2], &items)) != OK
        || (found = measure_items(&items, are_bodies, 8 + 4, &total)) != OK) {
        return given_up(found);
    }
    if (filters_argument != NULL
        && ((found = items_argument(filters_argument, &filters)) != OK
            || (found = measure_items(&filters, 0, 0, &total)) != OK)) {
        return given_up(found);
    }
    if (!items.count || ids.count != items.count || (filters_argument != NULL && filters.count != items.count)
        || total - 4 > UINT32_MAX || items.count > INT32_MAX) {
        return not_plain();
    }
    frame = new_bytes(total, &out);
    if (frame == NULL) {
        return NULL;
    }
    out = store_frame_head(out, total - 4, filters_argument == NULL ? 1 : 2, publisher_id, items.count);
    for (size_t place = 0; place < items.count; place++) {
        uint64_t id;
        Span item, filter;
        if ((found = id_at(&ids, place, &id)) != OK || (found = item_bytes(&items, place, &item)) != OK) {
            goto other;
        }
        out = store_u64(out, id);
        if (filters_argument != NULL) {
            if ((found = item_bytes(&filters, place, &filter)) != OK) {
                goto other;
            }
            out = store_bytes(out, filter.begin, size_of(&filter));
        }
        out = store_item(out, &item, are_bodies);
    }
    return frame;
other:
    Py_DECREF(frame);
    return given_up(found);
}

PyDoc_STRVAR(publish_frame_doc,
"publish_frame(publisher_id, ids, messages, filters)\n--\n\n"
"Returns a Publish frame. filters is None, or has an encoded filter value for each message. None where an argument is\n"
"none of the usual kind: ids a range or a list of numbers, the others lists of bytes.");

static PyObject *
publish_frame(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    if (!has_arguments("publish_frame", given, 4)) {
        return NULL;
    }
    return publish(arguments, arguments[3] == Py_None ? NULL : arguments[3], 0);
}

PyDoc_STRVAR(publish_plain_doc,
"publish_plain(publisher_id, ids, bodies)\n--\n\n"
"Returns the Publish frame of the plain messages with these bodies. None as from publish_frame.");

static PyObject *
publish_plain(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    return has_arguments("publish_plain", given, 3) ? publish(arguments, NULL, 1) : NULL;
}


/* Lines to frames. A line is the body of a plain message. */

/* Finds the line at `at`. Returns where the next one begins; NULL where none ends by `end`. */
static inline const uint8_t *
next_line(const uint8_t *at, const uint8_t *end, uint8_t delimiter, size_t *size)
{
    const uint8_t *found = at == end ? NULL : memchr(at, delimiter, (size_t)(end - at));
    if (found == NULL) {
        return NULL;
    }
    *size = (size_t)(found - at);
    return found + 1;
}

/* Finds data[start:end] and a delimiter of one byte, of four arguments. The last line must have its delimiter, too. */
static Found
lines_arguments(PyObject *const *arguments, Span *span, uint8_t *delimiter)
{
    Span found_delimiter;
    Found found;
    if ((found = span_arguments(arguments, span)) != OK
        || (found = bytes_argument(arguments[3], &found_delimiter)) != OK) {
        return found;
    }
    if (size_of(&found_delimiter) != 1 || span->begin == span->end || span->end[-1] != *found_delimiter.begin) {
        return OTHER;
    }
    *delimiter = *found_delimiter.begin;
    return OK;
}

PyDoc_STRVAR(measure_lines_doc,
"measure_lines(data, start, end, delimiter)\n--\n\n"
"Returns of the lines in data[start:end]: how many there are, the bytes of their messages together, those of the lines\n"
"alone without delimiters, and those of the longest line. None where they do not end with the delimiter, where that is\n"
"not one byte, or where a line is too large for an entry.");

static PyObject *
measure_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    uint8_t delimiter;
    Found found;
    size_t count = 0, heads = 0, size = 0, total = 0, longest = 0;
    if (!has_arguments("measure_lines", given, 4)) {
        return NULL;
    }
    if ((found = lines_arguments(arguments, &span, &delimiter)) != OK) {
        return given_up(found);
    }
    for (const uint8_t *at = span.begin; at != span.end; count++) {
        at = next_line(at, span.end, delimiter, &size);
        if (at == NULL || size >= SUB_BATCH_SIZE - LONG_HEAD) {
            return not_plain();
        }
        total += size; /* no more than the span */
        longest = size > longest ? size : longest;
        if (!add_size(&heads, section_head(size))) {
            return not_plain();
        }
    }
    if (!add_size(&heads, total)) {
        return not_plain();
    }
    return Py_BuildValue("(nnnn)", (Py_ssize_t)count, (Py_ssize_t)heads, (Py_ssize_t)total, (Py_ssize_t)longest);
}

/* Appends to the parts that cut_lines returns. */
static int
append_part(PyObject *parts, size_t line, size_t size, size_t place)
{
    int failed;
    PyObject *part = Py_BuildValue("(nnn)", (Py_ssize_t)line, (Py_ssize_t)size, (Py_ssize_t)place);
    if (part == NULL) {
        return -1;
    }
    failed = PyList_Append(parts, part);
    Py_DECREF(part);
    return failed;
}

PyDoc_STRVAR(cut_lines_doc,
"cut_lines(data, start, end, delimiter, limit, most)\n--\n\n"
"Returns where to cut lines, so that the messages of each part make one Publish frame of up to limit bytes behind its\n"
"size; a part ends behind each most lines, and a line that is larger has a part of its own. A part is the number of the\n"
"line behind its last one, the bytes of its messages, and where it ends in the data. None as from measure_lines.");

static PyObject *
cut_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    uint8_t delimiter;
    size_t limit, most, start, line = 0, first = 0, used = 0, beside = 0, size = 0;
    Found found;
    const uint8_t *data, *at, *next;
    PyObject *parts;
    if (!has_arguments("cut_lines", given, 6)) {
        return NULL;
    }
    if ((found = lines_arguments(arguments, &span, &delimiter)) != OK
        || (found = size_argument(arguments[1], &start)) != OK || (found = size_argument(arguments[4], &limit)) != OK
        || (found = size_argument(arguments[5], &most)) != OK) {
        return given_up(found);
    }
    if (!most) {
        return not_plain();
    }
    data = span.begin - start;
    limit = limit < FRAME_HEAD - 4 ? 0 : limit - (FRAME_HEAD - 4);
    parts = PyList_New(0);
    if (parts == NULL) {
        return NULL;
    }
    for (at = span.begin; at != span.end; at = next, line++) {
        size_t entry;
        next = next_line(at, span.end, delimiter, &size);
        if (next == NULL || size >= SUB_BATCH_SIZE - LONG_HEAD) {
            Py_DECREF(parts);
            return not_plain();
        }
        entry = size + section_head(size) + 8 + 4;
        /* What is used is less than the limit, or a single line; neither sum can pass the largest number. */
        if (line > first && (line % most == 0 || used > limit || entry > limit - used)) {
            if (append_part(parts, line, used - beside, (size_t)(at - data)) < 0) {
                Py_DECREF(parts);
                return NULL;
            }
            first = line;
            used = beside = 0;
        }
        used += entry;
        beside += 8 + 4;
    }
    if (append_part(parts, line, used - beside, (size_t)(at - data)) < 0) {
        Py_DECREF(parts);
        return NULL;
    }
    return parts;
}

PyDoc_STRVAR(publish_lines_doc,
"publish_lines(publisher_id, ids, data, start, end, delimiter, size)\n--\n\n"
"Returns the Publish frame of lines, whose messages have size bytes together. None as from publish_frame and\n"
"measure_lines, and where there are not as many lines as ids, or their messages have another size.");

static PyObject *
publish_lines(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    uint8_t publisher_id, delimiter, *out = NULL;
    Ids ids;
    Span span;
    size_t left, total;
    Found found;
    const uint8_t *at;
    PyObject *frame;
    if (!has_arguments("publish_lines", given, 7)) {
        return NULL;
    }
    if ((found = publisher_argument(arguments[0], &publisher_id)) != OK
        || (found = ids_argument(arguments[1], &ids)) != OK
        || (found = lines_arguments(arguments + 2, &span, &delimiter)) != OK
        || (found = size_argument(arguments[6], &left)) != OK) {
        return given_up(found);
    }
    /* Each line has at least its delimiter, and each message at most LONG_HEAD - 4 bytes beside it. */
    if (!ids.count || ids.count > size_of(&span) || ids.count > INT32_MAX
        || !multiply_sizes(ids.count, LONG_HEAD - 4, &total) || !add_size(&total, size_of(&span)) || left > total
        || !multiply_sizes(ids.count, 8 + 4, &total) || !add_size(&total, left) || !add_size(&total, FRAME_HEAD)
        || total - 4 > UINT32_MAX) {
        return not_plain();
    }
    frame = new_bytes(total, &out);
    if (frame == NULL) {
        return NULL;
    }
    out = store_frame_head(out, total - 4, 1, publisher_id, ids.count);
    at = span.begin;
    for (size_t place = 0; place < ids.count; place++) {
        uint64_t id;
        size_t size = 0;
        const uint8_t *line = at;
        at = next_line(at, span.end, delimiter, &size);
        if (at == NULL || size >= SUB_BATCH_SIZE - LONG_HEAD || size > left || section_head(size) > left - size) {
            found = OTHER;
            goto other;
        }
        left -= size + section_head(size);
        if ((found = id_at(&ids, place, &id)) != OK) {
            goto other;
        }
        out = store_bytes(store_section(store_u64(out, id), size), line, size);
    }
    if (at == span.end && !left) {
        return frame;
    }
    found = OTHER;
other:
    Py_DECREF(frame);
    return given_up(found);
}


/* Entries of a chunk to frames. */

/* Bytes of the head of a sub-entry, behind its first one: records, size unpacked, size. */
#define SUB_BATCH_HEAD 11u

/* Finds the single message at `at`. Returns where the next entry begins; NULL where it is none, or does not end by
   `end`. */
static inline const uint8_t *
next_single(const uint8_t *at, const uint8_t *end, size_t *size)
{
    if (end - at < 4 || (*size = load_u32(at)) >= SUB_BATCH_SIZE || *size > (size_t)(end - at) - 4) {
        return NULL;
    }
    return at + 4 + *size;
}

/* Appends to what survey returns. */
static int
append_stretch(PyObject *found, size_t begin, size_t end, size_t count, size_t number, unsigned int kind)
{
    int failed;
    PyObject *stretch = Py_BuildValue("(nnnnI)", (Py_ssize_t)begin, (Py_ssize_t)end, (Py_ssize_t)count,
                                      (Py_ssize_t)number, kind);
    if (stretch == NULL) {
        return -1;
    }
    failed = PyList_Append(found, stretch);
    Py_DECREF(stretch);
    return failed;
}

PyDoc_STRVAR(survey_doc,
"survey(data, start, end, count)\n--\n\n"
"Returns the stretches of so many entries, which must be exactly data[start:end]. See wire_python.survey. None where\n"
"they are not.");

static PyObject *
survey(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    Found result;
    size_t start, count, messages = 0, longest = 0;
    const uint8_t *data, *at, *first;
    PyObject *found;
    if (!has_arguments("survey", given, 4)) {
        return NULL;
    }
    if ((result = span_arguments(arguments, &span)) != OK || (result = size_argument(arguments[1], &start)) != OK
        || (result = size_argument(arguments[3], &count)) != OK) {
        return given_up(result);
    }
    data = span.begin - start;
    found = PyList_New(0);
    if (found == NULL) {
        return NULL;
    }
    at = first = span.begin;
    for (size_t entry = 0; entry < count; entry++) {
        size_t size = 0, records, plain;
        const uint8_t *next = next_single(at, span.end, &size);
        if (next != NULL) {
            messages++;
            longest = size > longest ? size : longest;
            at = next;
            continue;
        }
        if ((size_t)(span.end - at) < SUB_BATCH_HEAD || size < SUB_BATCH_SIZE) {
            goto other;
        }
        if (messages && append_stretch(found, (size_t)(first - data), (size_t)(at - data), messages, longest, 0) < 0) {
            goto failed;
        }
        records = (size_t)at[1] << 8 | at[2];
        plain = load_u32(at + 3);
        size = load_u32(at + 7);
        if (size > (size_t)(span.end - at) - SUB_BATCH_HEAD || plain > PY_SSIZE_T_MAX) {
            goto other;
        }
        first = at + SUB_BATCH_HEAD + size;
        if (append_stretch(found, (size_t)(first - size - data), (size_t)(first - data), records, plain, at[0]) < 0) {
            goto failed;
        }
        at = first;
        messages = longest = 0;
    }
    if (at != span.end) {
        goto other;
    }
    if (messages && append_stretch(found, (size_t)(first - data), (size_t)(at - data), messages, longest, 0) < 0) {
        goto failed;
    }
    return found;
other:
    Py_DECREF(found);
    return not_plain();
failed:
    Py_DECREF(found);
    return NULL;
}

PyDoc_STRVAR(cut_entries_doc,
"cut_entries(data, start, end, limit, most)\n--\n\n"
"Returns where to cut single messages, each behind its size, so that those of each part make one Publish frame: see\n"
"cut_lines. None where they are not exactly data[start:end].");

static PyObject *
cut_entries(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    size_t limit, most, start, place = 0, first = 0, used = 0, beside = 0, size = 0;
    Found found;
    const uint8_t *data, *at, *next;
    PyObject *parts;
    if (!has_arguments("cut_entries", given, 5)) {
        return NULL;
    }
    if ((found = span_arguments(arguments, &span)) != OK || (found = size_argument(arguments[1], &start)) != OK
        || (found = size_argument(arguments[3], &limit)) != OK || (found = size_argument(arguments[4], &most)) != OK) {
        return given_up(found);
    }
    if (!most || span.begin == span.end) {
        return not_plain();
    }
    data = span.begin - start;
    limit = limit < FRAME_HEAD - 4 ? 0 : limit - (FRAME_HEAD - 4);
    parts = PyList_New(0);
    if (parts == NULL) {
        return NULL;
    }
    for (at = span.begin; at != span.end; at = next, place++) {
        size_t entry;
        next = next_single(at, span.end, &size);
        if (next == NULL) {
            Py_DECREF(parts);
            return not_plain();
        }
        entry = size + 8 + 4; /* the size is less than 2 GiB */
        if (place > first && (place % most == 0 || used > limit || entry > limit - used)) {
            if (append_part(parts, place, used - beside, (size_t)(at - data)) < 0) {
                Py_DECREF(parts);
                return NULL;
            }
            first = place;
            used = beside = 0;
        }
        used += entry;
        beside += 8 + 4;
    }
    if (append_part(parts, place, used - beside, (size_t)(at - data)) < 0) {
        Py_DECREF(parts);
        return NULL;
    }
    return parts;
}

PyDoc_STRVAR(publish_entries_doc,
"publish_entries(publisher_id, ids, data, start, end)\n--\n\n"
"Returns the Publish frame of single messages, each behind its size. None as from publish_frame and cut_entries, and\n"
"where there are not as many messages as ids.");

static PyObject *
publish_entries(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    uint8_t publisher_id, *out = NULL;
    Ids ids;
    Span span;
    size_t total;
    Found found;
    const uint8_t *at;
    PyObject *frame;
    if (!has_arguments("publish_entries", given, 5)) {
        return NULL;
    }
    if ((found = publisher_argument(arguments[0], &publisher_id)) != OK
        || (found = ids_argument(arguments[1], &ids)) != OK || (found = span_arguments(arguments + 2, &span)) != OK) {
        return given_up(found);
    }
    /* Each message has at least its size: so no more is allocated than three times what is there. */
    if (!ids.count || ids.count > size_of(&span) / 4 || ids.count > INT32_MAX || !multiply_sizes(ids.count, 8, &total)
        || !add_size(&total, size_of(&span)) || !add_size(&total, FRAME_HEAD) || total - 4 > UINT32_MAX) {
        return not_plain();
    }
    frame = new_bytes(total, &out);
    if (frame == NULL) {
        return NULL;
    }
    out = store_frame_head(out, total - 4, 1, publisher_id, ids.count);
    at = span.begin;
    for (size_t place = 0; place < ids.count; place++) {
        uint64_t id;
        size_t size = 0;
        const uint8_t *entry = at;
        at = next_single(at, span.end, &size);
        if (at == NULL) {
            found = OTHER;
            goto other;
        }
        if ((found = id_at(&ids, place, &id)) != OK) {
            goto other;
        }
        out = store_bytes(store_u64(out, id), entry, size + 4);
    }
    if (at == span.end) {
        return frame;
    }
    found = OTHER;
other:
    Py_DECREF(frame);
    return given_up(found);
}


/* Bodies to JSON, as orjson writes strings. */

/* What becomes of a byte: itself; a backslash and a letter, which is the value; \u00 and two digits; or it is a part of a
   character of several bytes. */
#define AS_IT_IS 0u
#define AS_NUMBER 1u
#define OF_SEVERAL 2u

static inline uint8_t
json_form(uint8_t byte)
{
    switch (byte) {
    case '"':
    case '\\':
        return byte;
    case '\b':
        return 'b';
    case '\t':
        return 't';
    case '\n':
        return 'n';
    case '\f':
        return 'f';
    case '\r':
        return 'r';
    default:
        return byte < 0x20 ? AS_NUMBER : byte < 0x80 ? AS_IT_IS : OF_SEVERAL;
    }
}

/* Bytes that are looked at together, as one number. */
#define GLANCE 8u
#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Returns how many bytes from `at` on become themselves: at least, as it does not look at single ones. */
static inline size_t
plain_text(const uint8_t *at, size_t size)
{
    size_t done = 0;
    for (; size - done >= GLANCE; done += GLANCE) {
        uint64_t text, quote, backslash, other;
        memcpy(&text, at + done, GLANCE);
        quote = text ^ EACH('"');
        backslash = text ^ EACH('\\');
        /* A difference that is below zero, without a sign to begin with, or with one in the text. */
        other = (text - EACH(0x20)) | ((quote - EACH(1)) & ~quote) | ((backslash - EACH(1)) & ~backslash) | text;
        if (other & EACH(0x80)) {
            break;
        }
    }
    return done;
}

static inline int
is_between(uint8_t byte, uint8_t least, uint8_t most)
{
    return byte >= least && byte <= most;
}

/* Returns the length of the UTF-8 character of several bytes at `at`; 0 for what is none: also a surrogate, a longer form
   than needed, and a number that is too large. */
static size_t
character_size(const uint8_t *at, size_t left)
{
    uint8_t first = at[0], least = 0x80, most = 0xbf;
    size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || left < size) {
        return 0;
    }
    switch (first) {
    case 0xe0:
        least = 0xa0;
        break;
    case 0xed:
        most = 0x9f;
        break;
    case 0xf0:
        least = 0x90;
        break;
    case 0xf4:
        most = 0x8f;
        break;
    }
    if (!is_between(at[1], least, most)) {
        return 0;
    }
    for (size_t place = 2; place < size; place++) {
        if (!is_between(at[place], 0x80, 0xbf)) {
            return 0;
        }
    }
    return size;
}

/* Returns where to stop looking at single bytes, and to glance at several again. */
static inline size_t
glance_again(size_t done, size_t size)
{
    return size - done < GLANCE ? size : done + GLANCE;
}

/* Returns the bytes that a text takes between its quotes in JSON; SIZE_MAX where it is not UTF-8. */
static size_t
json_size(const uint8_t *at, size_t size)
{
    size_t done = 0, more = 0; /* more than the text itself */
    while (done < size) {
        done += plain_text(at + done, size - done);
        for (size_t stop = glance_again(done, size); done < stop;) {
            size_t taken = 1;
            uint8_t form = json_form(at[done]);
            if (form == OF_SEVERAL) {
                taken = character_size(at + done, size - done);
                if (!taken) {
                    return SIZE_MAX;
                }
            }
            else if (form != AS_IT_IS) {
                more += form == AS_NUMBER ? 5 : 1;
            }
            done += taken;
        }
    }
    return more > PY_SSIZE_T_MAX - size ? PY_SSIZE_T_MAX : size + more;
}

/* Writes a text as it stands between its quotes. It is UTF-8. */
static uint8_t *
store_json(uint8_t *out, const uint8_t *at, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    size_t done = 0;
    while (done < size) {
        size_t clean = plain_text(at + done, size - done);
        out = store_bytes(out, at + done, clean);
        done += clean;
        for (size_t stop = glance_again(done, size); done < stop;) {
            uint8_t byte = at[done++], form = json_form(byte);
            if (form == AS_IT_IS || form == OF_SEVERAL) {
                *out++ = byte;
            }
            else if (form == AS_NUMBER) {
                out = store_bytes(out, "\\u00", 4);
                *out++ = (uint8_t)digits[byte >> 4];
                *out++ = (uint8_t)digits[byte & 15];
            }
            else {
                *out++ = '\\';
                *out++ = form;
            }
        }
    }
    return out;
}

/* Returns how many decimal digits a number has. */
static size_t
digits_of(uint64_t number)
{
    size_t count = 1;
    for (; number > 9; number /= 10) {
        count++;
    }
    return count;
}

static uint8_t *
store_number(uint8_t *out, uint64_t number)
{
    uint8_t *end = out + digits_of(number), *at = end;
    do {
        *--at = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (at > out);
    return end;
}

PyDoc_STRVAR(plain_json_doc,
"plain_json(data, start, end, count, first, head, middle)\n--\n\n"
"Returns a line of JSON for each body of plain messages: head, a number that counts from first on, middle, the body as a\n"
"string, a closing brace and a newline. None where the entries are not exactly data[start:end], where a body is not\n"
"UTF-8, and where a number would be 2**64 or more.");

static PyObject *
plain_json(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    static const char tail[] = "\"}\n";
    Span span, head, middle;
    Bodies bodies;
    Found found;
    uint64_t first;
    const uint8_t *at;
    uint8_t *out = NULL;
    size_t total = 0, around;
    PyObject *lines;
    if (!has_arguments("plain_json", given, 7)) {
        return NULL;
    }
    if ((found = bytes_argument(arguments[5], &head)) != OK || (found = bytes_argument(arguments[6], &middle)) != OK
        || (found = number_argument(arguments[4], &first)) != OK
        || (found = bodies_arguments(arguments, &span, &bodies)) != OK) {
        return given_up(found);
    }
    if (bodies.count - 1 > UINT64_MAX - first) {
        return not_plain();
    }
    around = size_of(&head) + size_of(&middle) + 1 + sizeof tail - 1;
    at = span.begin;
    for (size_t place = 0; place < bodies.count; place++) {
        size_t size = 0, text;
        at = next_body(at, span.end, &size);
        text = json_size(at - size, size);
        if (text == SIZE_MAX) {
            return not_plain();
        }
        if (!add_size(&total, text) || !add_size(&total, around + digits_of(first + place))) {
            return PyErr_NoMemory();
        }
    }
    lines = new_bytes(total, &out);
    if (lines == NULL) {
        return NULL;
    }
    at = span.begin;
    for (size_t place = 0; place < bodies.count; place++) {
        size_t size = 0;
        at = next_body(at, span.end, &size);
        out = store_number(store_bytes(out, head.begin, size_of(&head)), first + place);
        out = store_bytes(out, middle.begin, size_of(&middle));
        *out++ = '"';
        out = store_json(out, at - size, size);
        out = store_bytes(out, tail, sizeof tail - 1);
    }
    return lines;
}


/* Confirms, delimiters, checksums. */

/* Returns range(first, first + count); its end may be 2^64. */
static PyObject *
run_from(uint64_t first, size_t count)
{
    PyObject *run = NULL, *start = PyLong_FromUnsignedLongLong(first), *length = PyLong_FromSize_t(count);
    PyObject *stop = start == NULL || length == NULL ? NULL : PyNumber_Add(start, length);
    if (stop != NULL) {
        run = PyObject_CallFunctionObjArgs((PyObject *)&PyRange_Type, start, stop, NULL);
    }
    Py_XDECREF(start);
    Py_XDECREF(length);
    Py_XDECREF(stop);
    return run;
}

PyDoc_STRVAR(confirmed_ids_doc,
"confirmed_ids(data)\n--\n\n"
"Returns the numbers of eight bytes in the data: as a range where each is one more than the one before, else as a tuple.");

static PyObject *
confirmed_ids(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span data;
    size_t count, place;
    uint64_t first;
    PyObject *ids;
    if (!has_arguments("confirmed_ids", given, 1) || bytes_argument(arguments[0], &data) != OK) {
        return NULL;
    }
    count = size_of(&data) / 8;
    if (count > 1) {
        first = load_u64(data.begin);
        for (place = 1; place < count && load_u64(data.begin + 8 * place) - place == first; place++) {
        }
        if (place == count && first <= UINT64_MAX - (count - 1)) {
            return run_from(first, count);
        }
    }
    ids = PyTuple_New((Py_ssize_t)count);
    for (place = 0; ids != NULL && place < count; place++) {
        PyObject *id = PyLong_FromUnsignedLongLong(load_u64(data.begin + 8 * place));
        if (id == NULL || PyTuple_SetItem(ids, (Py_ssize_t)place, id) < 0) {
            Py_DECREF(ids);
            return NULL;
        }
    }
    return ids;
}

/* Bytes that are compared with one at a time. */
#define LANES 32u

PyDoc_STRVAR(count_byte_doc,
"count_byte(data, byte)\n--\n\n"
"Returns how often a byte, given as a bytes object, comes in the data; None where it is not a single one.");

static PyObject *
count_byte(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span data, byte;
    uint8_t wanted;
    size_t count = 0;
    if (!has_arguments("count_byte", given, 2) || bytes_argument(arguments[0], &data) != OK
        || bytes_argument(arguments[1], &byte) != OK) {
        return NULL;
    }
    if (size_of(&byte) != 1) {
        return not_plain();
    }
    wanted = *byte.begin;
    while (size_of(&data) >= LANES) {
        /* A counter of one byte for each lane, which a compiler adds up as vectors; so many rounds do not fill it. */
        uint8_t found[LANES] = {0};
        size_t rounds = size_of(&data) / LANES;
        rounds = rounds < UINT8_MAX ? rounds : UINT8_MAX;
        for (; rounds; rounds--, data.begin += LANES) {
            for (size_t lane = 0; lane < LANES; lane++) {
                found[lane] = (uint8_t)(found[lane] + (data.begin[lane] == wanted));
            }
        }
        for (size_t lane = 0; lane < LANES; lane++) {
            count += found[lane];
        }
    }
    while (data.begin < data.end) {
        count += *data.begin++ == wanted;
    }
    return PyLong_FromSize_t(count);
}

#if defined(CRC_BY_CLMUL)

/* The checksum of each byte, for the ends that are shorter than a vector. */
static uint32_t crc_of_byte[256];

static void
prepare_crc(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ UINT32_C(0xedb88320) : crc >> 1;
        }
        crc_of_byte[byte] = crc;
    }
}

static int
has_fast_crc(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}

static uint32_t
crc_of_bytes(uint32_t crc, const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        crc = crc >> 8 ^ crc_of_byte[(uint8_t)crc ^ *at++];
    }
    return crc;
}

#define WITH_CLMUL __attribute__((target("pclmul,sse4.1")))

/* Multiplies both halves of a value by x to some power, modulo the polynomial, and adds what is that far behind it. */
WITH_CLMUL static inline __m128i
fold(__m128i value, __m128i powers, __m128i behind)
{
    __m128i low = _mm_clmulepi64_si128(value, powers, 0x00);
    __m128i high = _mm_clmulepi64_si128(value, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), behind);
}

WITH_CLMUL static inline __m128i
load_vector(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

/* Continues the CRC-32 of zlib, without its first and last inversion, by folding: the data are a polynomial over GF(2),
   four vectors of which are kept, and multiplied by x^512 as the next four are added (V. Gopal and others, "Fast CRC
   Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009). The numbers are powers of x modulo the
   polynomial of the CRC, with their bits reflected, and the quotient for Barrett's reduction. */
WITH_CLMUL static uint32_t
crc_by_folding(uint32_t crc, const uint8_t *at, const uint8_t *end)
{
    const __m128i by_512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i by_64 = _mm_set_epi64x(0, 0x163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x1f7011641, 0x1db710641);
    const __m128i low_32 = _mm_setr_epi32(-1, 0, -1, 0);
    __m128i one, two, three, four, part;
    if (end - at < 64) {
        return crc_of_bytes(crc, at, end);
    }
    one = _mm_xor_si128(load_vector(at), _mm_cvtsi32_si128((int)crc));
    two = load_vector(at + 16);
    three = load_vector(at + 32);
    four = load_vector(at + 48);
    for (at += 64; end - at >= 64; at += 64) {
        one = fold(one, by_512, load_vector(at));
        two = fold(two, by_512, load_vector(at + 16));
        three = fold(three, by_512, load_vector(at + 32));
        four = fold(four, by_512, load_vector(at + 48));
    }
    one = fold(fold(fold(one, by_128, two), by_128, three), by_128, four);
    for (; end - at >= 16; at += 16) {
        one = fold(one, by_128, load_vector(at));
    }
    /* From 128 bits to 96, to 64, to 32. */
    one = _mm_xor_si128(_mm_srli_si128(one, 8), _mm_clmulepi64_si128(one, by_128, 0x10));
    part = _mm_srli_si128(one, 4);
    one = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(one, low_32), by_64, 0x00), part);
    part = _mm_clmulepi64_si128(_mm_and_si128(one, low_32), barrett, 0x10);
    part = _mm_clmulepi64_si128(_mm_and_si128(part, low_32), barrett, 0x00);
    crc = (uint32_t)_mm_extract_epi32(_mm_xor_si128(one, part), 1);
    return crc_of_bytes(crc, at, end);
}

static uint32_t
crc_of(const uint8_t *at, const uint8_t *end)
{
    return ~crc_by_folding(UINT32_MAX, at, end);
}

#elif defined(CRC_BY_ARM)

static void
prepare_crc(void)
{
}

static int
has_fast_crc(void)
{
    return 1; /* the compiler was told so */
}

static uint32_t
crc_of(const uint8_t *at, const uint8_t *end)
{
    uint32_t crc = UINT32_MAX;
    for (; end - at >= 8; at += 8) {
        uint64_t eight;
        memcpy(&eight, at, 8);
        crc = __crc32d(crc, eight);
    }
    while (at < end) {
        crc = __crc32b(crc, *at++);
    }
    return ~crc;
}

#else

static void
prepare_crc(void)
{
}

static int
has_fast_crc(void)
{
    return 0;
}

static uint32_t
crc_of(const uint8_t *at, const uint8_t *end)
{
    (void)at;
    (void)end;
    return 0; /* not reached: see has_fast_crc */
}

#endif

PyDoc_STRVAR(crc32_doc,
"crc32(data, start, end)\n--\n\n"
"Returns zlib.crc32(data[start:end]); None where the processor has no instruction for it, and outside of the data.");

static PyObject *
crc32(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t given)
{
    Span span;
    Found found;
    if (!has_arguments("crc32", given, 3)) {
        return NULL;
    }
    if ((found = span_arguments(arguments, &span)) != OK) {
        return given_up(found);
    }
    return has_fast_crc() ? PyLong_FromUnsignedLong(crc_of(span.begin, span.end)) : not_plain();
}


/* The module. */

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, name##_doc}

static PyMethodDef functions[] = {
    FUNCTION(confirmed_ids),
    FUNCTION(count_byte),
    FUNCTION(crc32),
    FUNCTION(cut_entries),
    FUNCTION(cut_lines),
    FUNCTION(join_entries),
    FUNCTION(join_plain),
    FUNCTION(measure_lines),
    FUNCTION(measure_plain),
    FUNCTION(plain_bodies),
    FUNCTION(plain_json),
    FUNCTION(plain_lines),
    FUNCTION(publish_entries),
    FUNCTION(publish_frame),
    FUNCTION(publish_lines),
    FUNCTION(publish_plain),
    FUNCTION(split),
    FUNCTION(survey),
    {NULL, NULL, 0, NULL},
};

static int
add_constants(PyObject *module)
{
    prepare_crc();
    return PyModule_AddStringConstant(module, "SOURCE", WIRE_SOURCE);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_constants},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_wire",
    .m_doc = "The compiled twin of wire_python. Call it through wire alone, which falls back where it gives None.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__wire(void)
{
    return PyModuleDef_Init(&definition);
}
