/* What each request of the kernel does. */

#ifndef LATENCYFS_OPERATIONS_H
#define LATENCYFS_OPERATIONS_H

#include <fuse_lowlevel.h>

extern const struct fuse_lowlevel_ops operations;

#endif
