/* The operations on names and attributes, and the table of all. They forward at once: what waits, waited before. */

#define _GNU_SOURCE
#define FUSE_USE_VERSION FUSE_MAKE_VERSION(3, 12)

#include "operations.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "contents.h"
#include "forwarding.h"

/* --- names ------------------------------------------------------------------------------------------------------- */

/* What was made, if it was, as a lookup would answer. */
static void reply_made(fuse_req_t request, int outcome, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    if (outcome < 0 || find_entry(parent, name, &entry) < 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_entry(request, &entry);
}

static void look_up(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    reply_made(request, 0, parent, name);
}

static void forget(fuse_req_t request, fuse_ino_t number, uint64_t lookups)
{
    if (number != FUSE_ROOT_ID)
        inode_forget(inode_of(number), lookups);
    fuse_reply_none(request);
}

static void forget_several(fuse_req_t request, size_t count, struct fuse_forget_data *forgotten)
{
    for (size_t index = 0; index < count; index++)
        if (forgotten[index].ino != FUSE_ROOT_ID)
            inode_forget(inode_of(forgotten[index].ino), forgotten[index].nlookup);
    fuse_reply_none(request);
}

static void make_directory(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
    reply_made(request, mkdirat(handle_of(parent), name, mode), parent, name);
}

static void make_node(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
    reply_made(request, mknodat(handle_of(parent), name, mode, device), parent, name);
}

static void make_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
    reply_made(request, symlinkat(target, handle_of(parent), name), parent, name);
}

static void make_link(fuse_req_t request, fuse_ino_t number, fuse_ino_t parent, const char *name)
{
    struct path path = path_of(number);
    int outcome = linkat(AT_FDCWD, path.text, handle_of(parent), name, AT_SYMLINK_FOLLOW);
    reply_made(request, outcome, parent, name);
}

static void unlink_file(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    reply_outcome(request, unlinkat(handle_of(parent), name, 0));
}

static void remove_directory(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    reply_outcome(request, unlinkat(handle_of(parent), name, AT_REMOVEDIR));
}

static void rename_entry(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                         const char *new_name, unsigned int flags)
{
    reply_outcome(request, renameat2(handle_of(parent), name, handle_of(new_parent), new_name, flags));
}

/* --- attributes -------------------------------------------------------------------------------------------------- */

static void reply_attributes(fuse_req_t request, fuse_ino_t number)
{
    struct stat found;
    if (fstat(handle_of(number), &found) != 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_attr(request, &found, CACHED_SECONDS);
}

static void get_attributes(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file)
{
    (void)file;
    reply_attributes(request, number);
}

static struct timespec time_to_set(int is_set, int is_now, struct timespec given)
{
    if (is_set && !is_now)
        return given;
    return (struct timespec){.tv_nsec = is_now ? UTIME_NOW : UTIME_OMIT};
}

static int set_times(const char *path, const struct stat *wanted, int which)
{
    struct timespec times[] = {
        time_to_set(which & FUSE_SET_ATTR_ATIME, which & FUSE_SET_ATTR_ATIME_NOW, wanted->st_atim),
        time_to_set(which & FUSE_SET_ATTR_MTIME, which & FUSE_SET_ATTR_MTIME_NOW, wanted->st_mtim),
    };
    return utimensat(AT_FDCWD, path, times, 0);
}

static int set_owner(int handle, const struct stat *wanted, int which)
{
    uid_t user = which & FUSE_SET_ATTR_UID ? wanted->st_uid : (uid_t)-1;
    gid_t group = which & FUSE_SET_ATTR_GID ? wanted->st_gid : (gid_t)-1;
    return fchownat(handle, "", user, group, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

static void set_attributes(fuse_req_t request, fuse_ino_t number, struct stat *wanted, int which,
                           struct fuse_file_info *file)
{
    struct path path = path_of(number);
    int outcome = 0;
    if (which & FUSE_SET_ATTR_MODE)
        outcome = chmod(path.text, wanted->st_mode);
    if (outcome == 0 && which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        outcome = set_owner(handle_of(number), wanted, which);
    if (outcome == 0 && which & FUSE_SET_ATTR_SIZE)
        outcome = file ? ftruncate((int)file->fh, wanted->st_size) : truncate(path.text, wanted->st_size);
    if (outcome == 0 && which & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME))
        outcome = set_times(path.text, wanted, which);
    if (outcome < 0)
        fuse_reply_err(request, errno);
    else
        reply_attributes(request, number);
}

static void check_access(fuse_req_t request, fuse_ino_t number, int mask)
{
    struct path path = path_of(number);
    reply_outcome(request, access(path.text, mask));
}

static void read_symlink(fuse_req_t request, fuse_ino_t number)
{
    char target[4097];
    ssize_t length = readlinkat(handle_of(number), "", target, sizeof target - 1);
    if (length < 0) {
        fuse_reply_err(request, errno);
        return;
    }
    target[length] = '\0';
    fuse_reply_readlink(request, target);
}

static void get_usage(fuse_req_t request, fuse_ino_t number)
{
    struct statvfs found;
    if (fstatvfs(handle_of(number), &found) != 0)
        fuse_reply_err(request, errno);
    else
        fuse_reply_statfs(request, &found);
}

static void create_file(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                        struct fuse_file_info *file)
{
    struct fuse_entry_param entry;
    int descriptor = openat(handle_of(parent), name, (file->flags | O_CREAT | O_CLOEXEC) & ~O_NOFOLLOW, mode);
    if (descriptor < 0 || find_entry(parent, name, &entry) < 0) {
        int error = errno;
        if (descriptor >= 0)
            close(descriptor);
        fuse_reply_err(request, error);
        return;
    }
    file->fh = (uint64_t)descriptor;
    fuse_reply_create(request, &entry, file);
}

static void begin(void *unused, struct fuse_conn_info *connection)
{
    (void)unused;
    connection->want &= ~FUSE_CAP_SPLICE_READ; /* requests are kept in memory while they wait */
    puts("ready");
    fflush(stdout);
}

const struct fuse_lowlevel_ops operations = {
    .init = begin,
    .lookup = look_up,
    .forget = forget,
    .forget_multi = forget_several,
    .getattr = get_attributes,
    .setattr = set_attributes,
    .access = check_access,
    .readlink = read_symlink,
    .mknod = make_node,
    .mkdir = make_directory,
    .symlink = make_symlink,
    .link = make_link,
    .unlink = unlink_file,
    .rmdir = remove_directory,
    .rename = rename_entry,
    .statfs = get_usage,
    .opendir = open_directory,
    .readdir = read_directory,
    .releasedir = close_directory,
    .fsyncdir = sync_directory,
    .create = create_file,
    .open = open_file,
    .read = read_file,
    .write_buf = write_file,
    .release = close_file,
    .fsync = sync_file,
};
