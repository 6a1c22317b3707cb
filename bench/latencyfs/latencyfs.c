/* A file system that shows a directory as it is, where every metadata operation takes a fixed time: a network file
 * system in a box. Started by `bench.latencyfs`, which says what costs how much; serves one mount in the foreground.
 *
 * usage: latencyfs SOURCE MOUNTPOINT MICROSECONDS; prints "ready" when it is mounted, ends when its input ends. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "forwarding.h"
#include "operations.h"
#include "parallel.h"
#include "waiting.h"

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max; /* every inode that the kernel knows holds one */
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Whoever started it is gone when the input ends, however it ended: then the mount goes as well. */
static bool has_ended(const struct pollfd *input)
{
    char said[64];
    return input->revents != 0 && read(input->fd, said, sizeof said) <= 0;
}

/* Sleep until there is a request, the next one is due, or the input ends. Whether to go on. */
static bool wait_for_work(struct pollfd *watched, int64_t left_ns)
{
    struct timespec left = {.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
    if (ppoll(watched, 2, left_ns < 0 ? NULL : &left, NULL) < 0)
        return errno == EINTR; /* a signal has told the session to end */
    return !has_ended(&watched[1]);
}

/* 1: a request was taken; 0: there is none now; -1: that was the last. */
static int take_request(struct fuse_session *session, struct line *line, struct fuse_buf *buffer)
{
    int size = fuse_session_receive_buf(session, buffer);
    if (size == -EAGAIN || size == -EINTR)
        return 0;
    if (size <= 0 || line_take(line, session, buffer) != 0)
        return -1;
    return 1;
}

static void answer_requests(struct fuse_session *session, struct line *line)
{
    struct fuse_buf buffer = {.mem = NULL};
    struct pollfd watched[] = {
        {.fd = fuse_session_fd(session), .events = POLLIN},
        {.fd = STDIN_FILENO, .events = POLLIN},
    };
    bool goes_on = fcntl(watched[0].fd, F_SETFL, O_NONBLOCK) == 0;
    while (goes_on && !fuse_session_exited(session)) {
        int taken = take_request(session, line, &buffer);
        int64_t left_ns = line_process_due(line, session);
        goes_on = taken > 0 || (taken == 0 && wait_for_work(watched, left_ns));
    }
    free(buffer.mem);
}

static int serve(struct fuse_session *session, const char *mountpoint, int64_t latency_ns)
{
    struct line *line = line_begin(latency_ns);
    if (line == NULL || fuse_set_signal_handlers(session) != 0)
        return 1;
    int error = fuse_session_mount(session, mountpoint);
    if (error == 0) {
        error = parallel_ask(session);
        if (error == 0)
            answer_requests(session, line);
        fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
    return error;
}

int main(int count, char **words)
{
    char *end;
    long microseconds = count == 4 ? strtol(words[3], &end, 10) : -1;
    if (microseconds < 0 || *end != '\0') {
        fprintf(stderr, "usage: latencyfs SOURCE MOUNTPOINT MICROSECONDS\n");
        return 2;
    }
    if (forwarding_begin(words[1]) != 0) {
        perror("latencyfs: SOURCE cannot be opened");
        return 1;
    }
    umask(0);
    prctl(PR_SET_TIMERSLACK, 1); /* else a wait takes 50 us more than it should */
    raise_descriptor_limit();

    char *options[] = {words[0], "-ofsname=latencyfs,subtype=latencyfs", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(2, options);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session == NULL)
        return 1;
    int error = serve(session, words[2], microseconds * 1000);
    fuse_session_destroy(session);
    return error != 0;
}
