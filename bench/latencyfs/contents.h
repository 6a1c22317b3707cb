/* The operations on what lies behind a name. */

#ifndef LATENCYFS_CONTENTS_H
#define LATENCYFS_CONTENTS_H

#include <fuse_lowlevel.h>

void open_directory(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void read_directory(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *file);
void close_directory(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void sync_directory(fuse_req_t request, fuse_ino_t number, int is_data, struct fuse_file_info *file);
void open_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void read_file(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, struct fuse_file_info *file);
void write_file(fuse_req_t request, fuse_ino_t number, struct fuse_bufvec *content, off_t offset,
                struct fuse_file_info *file);
void close_file(fuse_req_t request, fuse_ino_t number, struct fuse_file_info *file);
void sync_file(fuse_req_t request, fuse_ino_t number, int is_data, struct fuse_file_info *file);

#endif
