// Makes syncing slow while the file named by SLOW_DISK is there: for LD_PRELOAD.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static int slowly(const char *name, int file) {
    const char *flag = getenv("SLOW_DISK");
    if (flag && access(flag, F_OK) == 0) {
        usleep(150 * 1000);
    }
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return sync(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
