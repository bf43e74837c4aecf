/* Loaded before the C library: a time of day that can be set while the process runs.
 *
 * The file named by CLOCK holds how many seconds it is ahead, as a native int64. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t ahead(void) {
    static volatile const int64_t *seconds;
    if (!seconds) {
        const char *name = getenv("CLOCK");
        int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
        if (file < 0) return 0;
        void *page = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        if (page == MAP_FAILED) return 0;
        seconds = page;
    }
    return *seconds;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int outcome = syscall(SYS_clock_gettime, which, now);
    if (outcome == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec += ahead();
    return outcome;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int outcome = syscall(SYS_gettimeofday, now, zone);
    if (outcome == 0) now->tv_sec += ahead();
    return outcome;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
