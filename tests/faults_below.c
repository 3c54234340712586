/* Preloaded: strikes at the n-th call that changes something below a folder, underneath Python and every library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, SHORT, ERROR };
static char root[4096];
static long at = -1;
long torture_calls;
static int how, code, lasting;

void torture_arm(const char *folder, long step, int kind, int error, int stays) {
    snprintf(root, sizeof root, "%s/", folder);
    torture_calls = 0, at = step, how = kind, code = error, lasting = stays;
}


static int below_path(const char *path) {
    char whole[4096];
    if (!root[0] || !path) return 0;
    if (path[0] != '/') {
        char here[2048];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    return !strncmp(path, root, strlen(root));
}
static int below(int fd) {
    char link[64], path[4096];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below_path(path);
}
/* What to do with this call: NOTHING, SHORT or ERROR (with errno set). */
static int struck(int frees) {
    long now = __atomic_add_fetch(&torture_calls, 1, __ATOMIC_SEQ_CST);
    if (at < 0 || now < at || (!lasting && now > at)) return NOTHING;
    if (how == KILL) kill(getpid(), SIGKILL);
    if (how == ERROR && frees && (code == ENOSPC || code == EDQUOT)) return NOTHING; /* to delete needs no room */
    if (how == ERROR) errno = code;
    return how;
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    int what = below(fd) ? struck(0) : NOTHING;
    if (what == ERROR) return -1;
    return real(fd, data, what == SHORT && n > 1 ? n / 2 : n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t to) {
    REAL(pwrite);
    int what = below(fd) ? struck(0) : NOTHING;
    if (what == ERROR) return -1;
    return real(fd, data, what == SHORT && n > 1 ? n / 2 : n, to);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    int what = below(fd) ? struck(0) : NOTHING;
    if (what == ERROR) return -1;
    return real(fd, parts, what == SHORT && n > 1 ? n / 2 : n);
}
int fsync(int fd) {
    REAL(fsync);
    return below(fd) && struck(0) == ERROR ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return below(fd) && struck(0) == ERROR ? -1 : real(fd);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return below_path(to) && struck(0) == ERROR ? -1 : real(from, to);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return below_path(path) && struck(0) == ERROR ? -1 : real(path, mode);
}
int unlink(const char *path) {
    REAL(unlink);
    return below_path(path) && struck(1) == ERROR ? -1 : real(path);
}
int rmdir(const char *path) {
    REAL(rmdir);
    return below_path(path) && struck(1) == ERROR ? -1 : real(path);
}
#define OPEN(name, before, given, path)                                                     \
    int name(before const char *path, int flags, ...) {                                     \
        REAL(name);                                                                         \
        mode_t mode = 0;                                                                    \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                \
            va_list more;                                                                   \
            va_start(more, flags), mode = va_arg(more, mode_t), va_end(more);               \
        }                                                                                   \
        int writes = flags & (O_WRONLY | O_RDWR | O_CREAT);                                 \
        if (writes && below_path(path) && struck(0) == ERROR) return -1;                    \
        return real(given path, flags, mode);                                               \
    }
#define COMMA ,
OPEN(open, , , path)
OPEN(open64, , , path)
OPEN(openat, int folder COMMA, folder COMMA, path)
OPEN(openat64, int folder COMMA, folder COMMA, path)
