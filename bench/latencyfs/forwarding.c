/* Forwards by handles and names, never by paths of people: what the operations have in common. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include "forwarding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static struct inode root;

int forwarding_begin(const char *source)
{
    struct stat found;
    root.handle = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root.handle < 0 || fstat(root.handle, &found) != 0)
        return -1;
    return 0;
}

struct inode *inode_of(fuse_ino_t number)
{
    return number == FUSE_ROOT_ID ? &root : (struct inode *)(uintptr_t)number;
}

int handle_of(fuse_ino_t number)
{
    return inode_of(number)->handle;
}

struct path path_of(fuse_ino_t number)
{
    struct path path;
    snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", handle_of(number));
    return path;
}

void reply_outcome(fuse_req_t request, int outcome)
{
    fuse_reply_err(request, outcome < 0 ? errno : 0);
}

int find_entry(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry)
{
    *entry = (struct fuse_entry_param){.attr_timeout = CACHED_SECONDS, .entry_timeout = CACHED_SECONDS};
    int handle = openat(handle_of(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (handle < 0)
        return -1;
    if (fstat(handle, &entry->attr) != 0) {
        int number = errno;
        close(handle);
        errno = number;
        return -1;
    }
    struct inode *inode = inode_remember(handle, &entry->attr);
    if (inode == NULL) {
        errno = ENOMEM;
        return -1;
    }
    entry->ino = (uintptr_t)inode;
    return 0;
}
