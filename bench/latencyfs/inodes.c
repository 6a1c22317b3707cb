/* A table of inodes by device and number. For one thread. */

#include "inodes.h"

#include <stdlib.h>
#include <unistd.h>

#define BUCKETS (1u << 16)

static struct inode *table[BUCKETS];

static struct inode **bucket_of(dev_t device, ino_t number)
{
    uint64_t mixed = ((uint64_t)number ^ (uint64_t)device << 32) * 0x9e3779b97f4a7c15u;
    return &table[mixed >> 48];
}

static struct inode *find(dev_t device, ino_t number)
{
    struct inode *inode = *bucket_of(device, number);
    while (inode != NULL && (inode->device != device || inode->number != number))
        inode = inode->next;
    return inode;
}

static struct inode *add(int handle, const struct stat *attributes)
{
    struct inode *inode = calloc(1, sizeof *inode);
    if (inode == NULL)
        return NULL;
    struct inode **bucket = bucket_of(attributes->st_dev, attributes->st_ino);
    inode->handle = handle;
    inode->device = attributes->st_dev;
    inode->number = attributes->st_ino;
    inode->next = *bucket;
    *bucket = inode;
    return inode;
}

struct inode *inode_remember(int handle, const struct stat *attributes)
{
    struct inode *known = find(attributes->st_dev, attributes->st_ino);
    struct inode *inode = known != NULL ? known : add(handle, attributes);
    if (inode != NULL)
        inode->lookups++;
    if (known != NULL || inode == NULL)
        close(handle);
    return inode;
}

void inode_forget(struct inode *inode, uint64_t lookups)
{
    inode->lookups -= lookups;
    if (inode->lookups > 0)
        return;
    struct inode **link = bucket_of(inode->device, inode->number);
    while (*link != inode)
        link = &(*link)->next;
    *link = inode->next;
    close(inode->handle);
    free(inode);
}
