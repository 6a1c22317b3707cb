/* Which requests wait as long as a server would let them, and the line in which they do. */

#ifndef LATENCYFS_WAITING_H
#define LATENCYFS_WAITING_H

#include <fuse_lowlevel.h>
#include <stdint.h>

struct line; /* the requests that wait, the first to come the first to go: all wait equally long */

struct line *line_begin(int64_t latency_ns);

/* Process the request now, or keep a copy until its time has come. -1 and errno without memory. */
int line_take(struct line *line, struct fuse_session *session, const struct fuse_buf *request);

/* Process every request whose time has come. Nanoseconds until that of the next one, -1 where none waits. */
int64_t line_process_due(struct line *line, struct fuse_session *session);

#endif
