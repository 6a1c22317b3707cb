/* Lookups side by side in one directory, as network file systems have them. */

#ifndef LATENCYFS_PARALLEL_H
#define LATENCYFS_PARALLEL_H

#include <fuse_lowlevel.h>

/* Ask the kernel for them, in the first reply of a session that is mounted. 0, or negative where that fails. */
int parallel_ask(struct fuse_session *session);

#endif
