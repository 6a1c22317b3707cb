/* libfuse before 3.17 forgets to pass FUSE_PARALLEL_DIROPS on to the kernel, which then sends one lookup at a time for a
 * directory (github.com/libfuse/libfuse/pull/861). So the flag is put into its first reply, the one to INIT. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include "parallel.h"

#include <linux/fuse.h>
#include <stddef.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static bool has_begun;

static ssize_t send_first(int descriptor, struct iovec *parts, int count)
{
    struct fuse_init_out reply;
    size_t known = offsetof(struct fuse_init_out, flags) + sizeof reply.flags;
    has_begun = true;
    if (count != 2 || parts[1].iov_len < known || parts[1].iov_len > sizeof reply)
        return writev(descriptor, parts, count); /* a refusal */
    memcpy(&reply, parts[1].iov_base, parts[1].iov_len);
    reply.flags |= FUSE_PARALLEL_DIROPS;
    struct iovec changed[] = {parts[0], {.iov_base = &reply, .iov_len = parts[1].iov_len}};
    return writev(descriptor, changed, 2);
}

static ssize_t send_reply(int descriptor, struct iovec *parts, int count, void *unused)
{
    (void)unused;
    return has_begun ? writev(descriptor, parts, count) : send_first(descriptor, parts, count);
}

static ssize_t receive(int descriptor, void *buffer, size_t size, void *unused)
{
    (void)unused;
    return read(descriptor, buffer, size);
}

int parallel_ask(struct fuse_session *session)
{
    static const struct fuse_custom_io own = {.writev = send_reply, .read = receive};
    return fuse_session_custom_io(session, &own, fuse_session_fd(session));
}
