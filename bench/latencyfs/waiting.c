/* The line of waiting requests. For one thread: what waits costs neither a thread nor a switch between threads, so that
 * the processors are left to the contestants. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include "waiting.h"

#include <linux/fuse.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct waiting {
    struct waiting *next;
    int64_t due_ns;
    size_t size;
    char request[];
};

struct line {
    int64_t latency_ns;
    struct waiting *first, **end;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

struct line *line_begin(int64_t latency_ns)
{
    struct line *line = calloc(1, sizeof *line);
    if (line != NULL) {
        line->latency_ns = latency_ns;
        line->end = &line->first;
    }
    return line;
}

/* Once for a listing, however many replies it takes. */
static bool begins_listing(const struct fuse_buf *request)
{
    const char *content = request->mem;
    struct fuse_read_in wanted;
    if (request->size < sizeof(struct fuse_in_header) + sizeof wanted)
        return true;
    memcpy(&wanted, content + sizeof(struct fuse_in_header), sizeof wanted);
    return wanted.offset == 0;
}

static bool is_metadata(const struct fuse_buf *request)
{
    const struct fuse_in_header *header = request->mem;
    switch (header->opcode) {
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_SETATTR:
    case FUSE_ACCESS:
    case FUSE_READLINK:
    case FUSE_CREATE:
    case FUSE_MKDIR:
    case FUSE_MKNOD:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_STATFS:
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR:
        return true;
    case FUSE_READDIR:
        return begins_listing(request);
    default:
        return false;
    }
}

static struct waiting *copy_of(const struct fuse_buf *request)
{
    struct waiting *waiting = malloc(sizeof *waiting + request->size);
    if (waiting != NULL) {
        waiting->next = NULL;
        waiting->size = request->size;
        memcpy(waiting->request, request->mem, request->size);
    }
    return waiting;
}

int line_take(struct line *line, struct fuse_session *session, const struct fuse_buf *request)
{
    if (line->latency_ns == 0 || !is_metadata(request)) {
        fuse_session_process_buf(session, request);
        return 0;
    }
    struct waiting *waiting = copy_of(request);
    if (waiting == NULL)
        return -1;
    waiting->due_ns = now_ns() + line->latency_ns;
    *line->end = waiting;
    line->end = &waiting->next;
    return 0;
}

static void process_first(struct line *line, struct fuse_session *session)
{
    struct waiting *waiting = line->first;
    struct fuse_buf request = {.mem = waiting->request, .size = waiting->size};
    line->first = waiting->next;
    if (line->first == NULL)
        line->end = &line->first;
    fuse_session_process_buf(session, &request);
    free(waiting);
}

int64_t line_process_due(struct line *line, struct fuse_session *session)
{
    while (line->first != NULL) {
        int64_t left_ns = line->first->due_ns - now_ns();
        if (left_ns > 0)
            return left_ns;
        process_first(line, session);
    }
    return -1;
}
