/* Lists, looks at and unlinks the entries of one open directory, without Python's lock: what `entries` does, faster.
 *
 * Called by `entries.NativeListing` only. Works on one descriptor, follows no link, opens nothing, removes nothing but
 * non-directories, and decides nothing: what is not plain goes back to Python by name. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LISTING_BYTES (64 * 1024)
#define SORT_FROM 1024 /* entries; below that the order of inodes gains nothing */

struct entry {
    uint64_t inode;
    uint32_t offset; /* of its name, in the names of its kind */
};

/* Growing arrays of names that end with NUL. */
struct names {
    char *text;
    size_t used, size;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int add_name(struct names *names, const char *name, size_t length)
{
    if (names->used + length + 1 > names->size) {
        size_t size = names->size ? names->size * 2 : LISTING_BYTES;
        char *text = realloc(names->text, size);
        if (text == NULL)
            return ENOMEM;
        names->text = text;
        names->size = size;
    }
    memcpy(names->text + names->used, name, length + 1);
    names->used += length + 1;
    return 0;
}

static int add_entry(struct entry **entries, size_t *count, size_t *size, struct entry entry)
{
    if (*count == *size) {
        size_t wanted = *size ? *size * 2 : 1024;
        struct entry *grown = realloc(*entries, wanted * sizeof entry);
        if (grown == NULL)
            return ENOMEM;
        *entries = grown;
        *size = wanted;
    }
    (*entries)[(*count)++] = entry;
    return 0;
}

static int by_inode(const void *one, const void *other)
{
    uint64_t a = ((const struct entry *)one)->inode, b = ((const struct entry *)other)->inode;
    return (a > b) - (a < b);
}

static int is_dot(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* --- listing ------------------------------------------------------------------------------------------------- */

struct listing {
    struct names directories, others;
    struct entry *entries;
    size_t count, size, directory_count;
    int at_end;
};

static int take_block(struct listing *found, const char *block, long length)
{
    for (long at = 0; at < length;) {
        const struct dirent64 *entry = (const struct dirent64 *)(block + at);
        at += entry->d_reclen;
        if (is_dot(entry->d_name))
            continue;
        size_t name_length = strlen(entry->d_name);
        int error;
        if (entry->d_type == DT_DIR) {
            error = add_name(&found->directories, entry->d_name, name_length);
            found->directory_count++;
        } else {
            struct entry one = {entry->d_ino, (uint32_t)found->others.used};
            error = add_entry(&found->entries, &found->count, &found->size, one);
            if (error == 0)
                error = add_name(&found->others, entry->d_name, name_length);
        }
        if (error != 0)
            return error;
    }
    return 0;
}

/* Until `limit` entries are there, or the directory ends, or directories are there and the last block took longer than
 * `patience_ns`: others can begin with those. */
static int list_some(int directory, size_t limit, int64_t patience_ns, struct listing *found)
{
    char *block = malloc(LISTING_BYTES);
    int error = block == NULL ? ENOMEM : 0;
    while (error == 0 && found->count + found->directory_count < limit) {
        int64_t begun = now_ns();
        long length = syscall(SYS_getdents64, directory, block, LISTING_BYTES);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0) {
            error = errno;
        } else if (length == 0) {
            found->at_end = 1;
            break;
        } else {
            error = take_block(found, block, length);
            if (found->directory_count > 0 && now_ns() - begun > patience_ns)
                break;
        }
    }
    free(block);
    if (error == 0 && found->count >= SORT_FROM)
        qsort(found->entries, found->count, sizeof *found->entries, by_inode);
    return error;
}

static PyObject *name_list(const struct names *names)
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list != NULL && at < names->used;) {
        size_t length = strlen(names->text + at);
        PyObject *name = PyUnicode_DecodeFSDefaultAndSize(names->text + at, (Py_ssize_t)length);
        if (name == NULL || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
        at += length + 1;
    }
    return list;
}

static PyObject *packed(const struct listing *found)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)found->others.used);
    if (bytes == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(bytes);
    for (size_t index = 0; index < found->count; index++) {
        const char *name = found->others.text + found->entries[index].offset;
        size_t length = strlen(name) + 1;
        memcpy(to, name, length);
        to += length;
    }
    return bytes;
}

PyDoc_STRVAR(list_entries_doc,
             "list_entries(directory, limit, patience_ns) -> (directories, others, at_end)\n\n"
             "The next entries: names of directories, and the others in one bytes object, each ended by NUL.");

static PyObject *list_entries(PyObject *module, PyObject *args)
{
    int directory;
    Py_ssize_t limit;
    long long patience_ns;
    if (!PyArg_ParseTuple(args, "inL", &directory, &limit, &patience_ns))
        return NULL;
    struct listing found = {0};
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = list_some(directory, (size_t)limit, patience_ns, &found);
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    } else {
        PyObject *directories = name_list(&found.directories);
        PyObject *others = directories == NULL ? NULL : packed(&found);
        if (others != NULL)
            result = Py_BuildValue("(OOO)", directories, others, found.at_end ? Py_True : Py_False);
        Py_XDECREF(directories);
        Py_XDECREF(others);
    }
    free(found.directories.text);
    free(found.others.text);
    free(found.entries);
    return result;
}

/* --- removing ------------------------------------------------------------------------------------------------ */

enum fate { GONE, IS_DIRECTORY, IS_LINKED, FAILED };

struct special {
    uint32_t offset;
    int fate, error;
};

struct work {
    int directory, unlink;
    long long limit, budget_ns, slow_ns;
};

struct done {
    size_t next, specials;
    long long entries, slow, files;
    unsigned long long bytes;
    struct special *special;
};

static int again(int result)
{
    return result < 0 && errno == EINTR;
}

static enum fate remove_one(const struct work *work, const char *name, struct done *done)
{
    struct stat found;
    int result;
    do
        result = fstatat(work->directory, name, &found, AT_SYMLINK_NOFOLLOW);
    while (again(result));
    if (result < 0)
        return FAILED;
    if (S_ISDIR(found.st_mode))
        return IS_DIRECTORY;
    if (found.st_nlink != 1)
        return IS_LINKED;
    if (work->unlink) {
        do
            result = unlinkat(work->directory, name, 0);
        while (again(result));
        if (result < 0)
            return FAILED;
    }
    done->files++;
    done->bytes += (unsigned long long)found.st_size;
    return GONE;
}

static void remove_some(const struct work *work, const char *names, size_t length, struct done *done)
{
    int64_t begun = now_ns(), before = begun;
    while (done->next < length && done->entries < work->limit) {
        const char *name = names + done->next;
        enum fate fate = remove_one(work, name, done);
        if (fate != GONE) {
            struct special special = {(uint32_t)done->next, fate, fate == FAILED ? errno : 0};
            done->special[done->specials++] = special;
        }
        done->entries++;
        done->next += strlen(name) + 1;
        int64_t after = now_ns();
        done->slow += after - before > work->slow_ns;
        before = after;
        if (after - begun > work->budget_ns)
            break;
    }
}

static PyObject *special_list(const struct done *done, const char *names, enum fate fate)
{
    PyObject *list = PyList_New(0);
    for (size_t index = 0; list != NULL && index < done->specials; index++) {
        const struct special *special = &done->special[index];
        if (special->fate != (int)fate)
            continue;
        PyObject *item = PyUnicode_DecodeFSDefault(names + special->offset);
        if (item != NULL && fate == FAILED)
            item = Py_BuildValue("(Ni)", item, special->error);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

PyDoc_STRVAR(remove_entries_doc,
             "remove_entries(directory, names, start, unlink, limit, budget_ns, slow_ns)\n"
             "    -> (next, entries, slow, files, bytes, directories, linked, failed)\n\n"
             "Unlink (or only look at) non-directories from `start` on: at most `limit`, for about `budget_ns`. What has\n"
             "other hard links, or is a directory by now, is left alone and named.");

static PyObject *remove_entries(PyObject *module, PyObject *args)
{
    struct work work;
    Py_buffer names;
    Py_ssize_t start;
    if (!PyArg_ParseTuple(args, "iy*npLLL", &work.directory, &names, &start, &work.unlink, &work.limit,
                          &work.budget_ns, &work.slow_ns))
        return NULL;
    struct done done = {.next = (size_t)start};
    PyObject *result = NULL;
    const char *text = names.buf;
    if (start < 0 || work.limit < 1 || (names.len > 0 && text[names.len - 1] != '\0')) {
        PyErr_SetString(PyExc_ValueError, "names end with NUL, start and limit are positive");
    } else if ((done.special = calloc((size_t)work.limit, sizeof *done.special)) == NULL) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS
        remove_some(&work, text, (size_t)names.len, &done);
        Py_END_ALLOW_THREADS
        PyObject *directories = special_list(&done, text, IS_DIRECTORY);
        PyObject *linked = directories == NULL ? NULL : special_list(&done, text, IS_LINKED);
        PyObject *failed = linked == NULL ? NULL : special_list(&done, text, FAILED);
        if (failed != NULL)
            result = Py_BuildValue("(nLLLKOOO)", (Py_ssize_t)done.next, done.entries, done.slow, done.files,
                                   done.bytes, directories, linked, failed);
        Py_XDECREF(directories);
        Py_XDECREF(linked);
        Py_XDECREF(failed);
    }
    free(done.special);
    PyBuffer_Release(&names);
    return result;
}

/* --- the module ---------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"list_entries", list_entries, METH_VARARGS, list_entries_doc},
    {"remove_entries", remove_entries, METH_VARARGS, remove_entries_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The entries of one open directory, listed and removed without Python's lock.",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&definition);
}
