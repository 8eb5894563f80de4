/* Starts and measures runtimes for `make bench` with as little of its own cost as can be.
 *
 *   driver usage COMMAND [ARGUMENT...]
 *       runs the command and prints {"exit", "wall_us", "user_us", "system_us", "peak_kib",
 *       "faults"} as JSON; peak_kib is the largest resident set of any one process of the
 *       command and of those that it waited for. A small static program must do this: a
 *       child's peak starts with that of the process that started it.
 *   driver fleet COUNT AT_A_TIME PREFIX RUNTIME ROOT BUNDLE
 *       create, start and delete --force of COUNT containers, AT_A_TIME of them at once;
 *       prints {"containers", "seconds"}.
 *   driver populate COUNT PREFIX RUNTIME ROOT BUNDLE
 *       leaves COUNT containers running, started four at a time.
 *   driver gone PIDFILE
 *       waits until the process that the file names has ended (a zombie has).
 *   driver memlock COMMAND [ARGUMENT...]
 *       executes the command where raising RLIMIT_MEMLOCK seems to succeed. Old crun insists on
 *       it before it loads a BPF program, though kernels since 5.11 do not count BPF against it;
 *       a host without CAP_SYS_RESOURCE refuses.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "driver: %s: %s\n", what, strerror(errno));
    exit(125);
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

static pid_t spawn(char *const argv[], int quiet)
{
    pid_t pid = vfork();
    if (pid < 0)
        fail("vfork");
    if (pid == 0) {
        if (quiet) {
            int null = open("/dev/null", O_RDWR | O_CLOEXEC);
            dup2(null, 0);
            dup2(null, 1);
        }
        execv(argv[0], argv);
        _exit(127);
    }
    return pid;
}

static int64_t micros(struct timeval t)
{
    return t.tv_sec * 1000000ll + t.tv_usec;
}

static int usage_of(char *const argv[])
{
    int64_t start = now_us();
    pid_t pid = spawn(argv, 1);
    int status;
    struct rusage usage;
    if (wait4(pid, &status, 0, &usage) < 0)
        fail("wait4");
    printf("{\"exit\": %d, \"wall_us\": %lld, \"user_us\": %lld, \"system_us\": %lld, \"peak_kib\": %ld, \"faults\": %ld}\n",
           WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), (long long)(now_us() - start),
           (long long)micros(usage.ru_utime), (long long)micros(usage.ru_stime), usage.ru_maxrss, usage.ru_minflt);
    return 0;
}

/* One container on its way: the verb that runs, and the process that runs it. */
struct slot {
    int step;
    pid_t pid;
    char id[128];
};

enum { CREATE, START, DELETE };

struct fleet {
    char *runtime, *root, *bundle;
    const char *prefix;
};

static void advance(const struct fleet *f, struct slot *s)
{
    char *create[] = {f->runtime, "--root", f->root, "create", "--bundle", f->bundle, s->id, NULL};
    char *start[] = {f->runtime, "--root", f->root, "start", s->id, NULL};
    char *delete[] = {f->runtime, "--root", f->root, "delete", "--force", s->id, NULL};
    char *const *verbs[] = {create, start, delete};
    s->pid = spawn(verbs[s->step], 1);
}

/* Takes COUNT containers through their verbs up to the last one, AT_A_TIME of them at once. */
static int fleet(const struct fleet *f, int count, int at_a_time, int last)
{
    struct slot *slots = calloc(at_a_time, sizeof *slots);
    int started = 0, running = 0;
    int64_t begin = now_us();
    for (; started < count && running < at_a_time; running++) {
        snprintf(slots[running].id, sizeof slots[running].id, "%s%d", f->prefix, started++);
        advance(f, &slots[running]);
    }
    while (running > 0) {
        int status;
        pid_t pid = wait(&status);
        if (pid < 0)
            fail("wait");
        struct slot *s = NULL;
        for (int i = 0; i < at_a_time; i++)
            if (slots[i].pid == pid)
                s = &slots[i];
        if (!s)
            continue;
        if (status != 0) {
            static const char *const names[] = {"create", "start", "delete"};
            fprintf(stderr, "driver: %s %s of %s failed with status %#x\n", f->runtime, names[s->step], s->id, status);
            return 1;
        }
        if (s->step++ == last) {
            if (started == count) {
                s->pid = -1;
                running--;
                continue;
            }
            s->step = CREATE;
            snprintf(s->id, sizeof s->id, "%s%d", f->prefix, started++);
        }
        advance(f, s);
    }
    printf("{\"containers\": %d, \"seconds\": %.6f}\n", count, (now_us() - begin) / 1e6);
    return 0;
}

static int gone(const char *path)
{
    FILE *file = fopen(path, "r");
    int pid;
    if (!file || fscanf(file, "%d", &pid) != 1)
        fail(path);
    int fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return errno == ESRCH ? 0 : 1;
    struct pollfd ended = {.fd = fd, .events = POLLIN};
    return poll(&ended, 1, 30000) == 1 ? 0 : 1;
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the filter below reads the low halves of arguments first"
#endif

static int memlock(char *const argv[])
{
#define LOW(n) offsetof(struct seccomp_data, args[n])
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, LOW(1)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, RLIMIT_MEMLOCK, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, LOW(2)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        fail("load a filter (needs root)");
    execvp(argv[0], argv);
    fail(argv[0]);
    return 1;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[1] : "";
    if (!strcmp(mode, "usage"))
        return usage_of(argv + 2);
    if (!strcmp(mode, "gone"))
        return gone(argv[2]);
    if (!strcmp(mode, "memlock"))
        return memlock(argv + 2);
    if (!strcmp(mode, "fleet") && argc == 8) {
        struct fleet f = {argv[5], argv[6], argv[7], argv[4]};
        return fleet(&f, atoi(argv[2]), atoi(argv[3]), DELETE);
    }
    if (!strcmp(mode, "populate") && argc == 7) {
        struct fleet f = {argv[4], argv[5], argv[6], argv[3]};
        return fleet(&f, atoi(argv[2]), 4, START);
    }
    fprintf(stderr, "usage: driver usage|fleet|populate|gone|memlock ... (see driver.c)\n");
    return 2;
}
