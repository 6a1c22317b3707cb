/* The inodes that the kernel knows: each is held open by its handle, so that its number is not used again meanwhile. */

#ifndef LATENCYFS_INODES_H
#define LATENCYFS_INODES_H

#include <stdint.h>
#include <sys/stat.h>

struct inode {
    struct inode *next; /* in its bucket */
    int handle;         /* O_PATH */
    dev_t device;
    ino_t number;
    uint64_t lookups; /* how often the kernel was told of it and has not forgotten it */
};

/* The inode of `handle`, which this takes over, one lookup more; NULL without memory, and the handle is closed. */
struct inode *inode_remember(int handle, const struct stat *attributes);

/* Take lookups back; at none the inode is closed and freed. */
void inode_forget(struct inode *inode, uint64_t lookups);

#endif
