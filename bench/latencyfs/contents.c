/* Listings and the contents of files. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include "contents.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "forwarding.h"

/* A listing: the stream, where it stands, and an entry that was read and did not fit into the reply. */
struct listing {
    DIR *stream;
    off_t position;
    struct dirent *kept;
};

static struct listing *listing_of(struct fuse_file_info *file)
{
    return (struct listing *)(uintptr_t)file->fh;
}

static struct listing *open_listing(fuse_ino_t number)
{
    struct listing *listing = calloc(1, sizeof *listing);
    int descriptor = openat(handle_of(number), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (listing != NULL && descriptor >= 0 && (listing->stream = fdopendir(descriptor)) != NULL)
        return listing;
    int error = errno;
    if (descriptor >= 0)
        close(descriptor);
    free(listing);
    errno = error;
    return NULL;
}

void open_directory(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct listing *listing = open_listing(number);
    if (listing == NULL) {
        fuse_reply_err(request, errno);
        return;
    }
    file->fh = (uintptr_t)listing;
    fuse_reply_open(request, file);
}

/* How many bytes of `reply` were filled; -1 and errno where the listing failed before the first entry. */
static ssize_t fill(fuse_req_t request, struct listing *listing, char *reply, size_t size)
{
    size_t used = 0;
    for (;;) {
        errno = 0;
        struct dirent *found = listing->kept != NULL ? listing->kept : readdir(listing->stream);
        listing->kept = NULL;
        if (found == NULL)
            return errno && !used ? -1 : (ssize_t)used;
        struct stat shown = {.st_ino = found->d_ino, .st_mode = (mode_t)found->d_type << 12};
        size_t needed = fuse_add_direntry(request, reply + used, size - used, found->d_name, &shown, found->d_off);
        if (needed > size - used) {
            listing->kept = found;
            return (ssize_t)used;
        }
        used += needed;
        listing->position = found->d_off;
    }
}

void read_directory(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                           struct fuse_file_info *file)
{
    struct listing *listing = listing_of(file);
    (void)number;
    char *reply = malloc(size);
    if (reply == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    if (offset != listing->position) {
        seekdir(listing->stream, offset);
        listing->kept = NULL;
        listing->position = offset;
    }
    ssize_t used = fill(request, listing, reply, size);
    if (used < 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_buf(request, reply, (size_t)used);
    free(reply);
}

void close_directory(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    (void)number;
    closedir(listing_of(file)->stream);
    free(listing_of(file));
    fuse_reply_err(request, 0);
}

void sync_directory(fuse_req_t request, fuse_ino_t number, int is_data, struct fuse_file_info *file)
{
    (void)number;
    int descriptor = dirfd(listing_of(file)->stream);
    reply_outcome(request, is_data ? fdatasync(descriptor) : fsync(descriptor));
}

void open_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    struct path path = path_of(number);
    int descriptor = open(path.text, (file->flags | O_CLOEXEC) & ~O_NOFOLLOW);
    if (descriptor < 0) {
        fuse_reply_err(request, errno);
        return;
    }
    file->fh = (uint64_t)descriptor;
    fuse_reply_open(request, file);
}

void read_file(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)number;
    struct fuse_bufvec content = FUSE_BUFVEC_INIT(size);
    content.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    content.buf[0].fd = (int)file->fh;
    content.buf[0].pos = offset;
    fuse_reply_data(request, &content, 0);
}

void write_file(fuse_req_t request, fuse_ino_t number, struct fuse_bufvec *content, off_t offset,
                       struct fuse_file_info *file)
{
    (void)number;
    struct fuse_bufvec target = FUSE_BUFVEC_INIT(fuse_buf_size(content));
    target.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
    target.buf[0].fd = (int)file->fh;
    target.buf[0].pos = offset;
    ssize_t written = fuse_buf_copy(&target, content, 0);
    if (written < 0)
        fuse_reply_err(request, (int)-written);
    else
        fuse_reply_write(request, (size_t)written);
}

void close_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    (void)number;
    reply_outcome(request, close((int)file->fh));
}

void sync_file(fuse_req_t request, fuse_ino_t number, int is_data, struct fuse_file_info *file)
{
    (void)number;
    reply_outcome(request, is_data ? fdatasync((int)file->fh) : fsync((int)file->fh));
}
