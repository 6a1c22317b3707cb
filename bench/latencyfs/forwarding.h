/* What the operations have in common: the inodes and handles behind numbers, and how a name is found. */

#ifndef LATENCYFS_FORWARDING_H
#define LATENCYFS_FORWARDING_H

#include <fuse_lowlevel.h>

#include "inodes.h"

#define CACHED_SECONDS 1.0 /* how long the kernel keeps entries and attributes; libfuse's own default */

/* The path of an inode that is held by a handle, for the calls that do not take handles. */
struct path {
    char text[32];
};

/* Open what is shown. -1 and errno where the source cannot be opened. */
int forwarding_begin(const char *source);

struct inode *inode_of(fuse_ino_t number);
int handle_of(fuse_ino_t number);
struct path path_of(fuse_ino_t number);

/* Reply with success, or with errno where the outcome is negative. */
void reply_outcome(fuse_req_t request, int outcome);

/* Fill in the entry of a name, which the kernel knows from now on. -1 and errno where there is none. */
int find_entry(fuse_ino_t parent, const char *name, struct fuse_entry_param *entry);

#endif
