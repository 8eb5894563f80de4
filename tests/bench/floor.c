/* The least that a container costs: makes the system calls that the bundle of `runc spec` asks
 * for (with terminal false), and nothing else. It reads no configuration, keeps no state and
 * checks no file names of the image: a yardstick for `make bench`, not a runtime.
 *
 *   floor ROOTFS ID PROGRAM [ARGUMENT...]
 *
 * Needs root and a cgroup2 file system at /sys/fs/cgroup. Exits like PROGRAM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOUNT_FLAGS (MS_NOSUID | MS_NOEXEC | MS_NODEV)

static void fail(const char *what)
{
    dprintf(2, "floor: %s: %s\n", what, strerror(errno));
    _exit(127);
}

/* Fails with the text of the expression when it is negative. */
#define CALL(expression) \
    do { \
        if ((long)(expression) < 0) \
            fail(#expression); \
    } while (0)

static const struct device {
    const char *name;
    unsigned major, minor;
} devices[] = {
    {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};
#define DEVICES (sizeof devices / sizeof devices[0])

#define ANY (-1)

/* The device rules that runtimes put in front of "deny everything": node creation, the default
 * devices, pseudo terminals. */
static int device_program(void)
{
    static const int allowed[][2] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, ANY}};
    struct bpf_insn insns[64];
    int n = 0;
#define INSN(...) insns[n++] = (struct bpf_insn){__VA_ARGS__}
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = 0);
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 4, .src_reg = 1, .off = 4);
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 5, .src_reg = 1, .off = 8);
    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 3, .src_reg = 2);
    INSN(.code = BPF_ALU64 | BPF_RSH | BPF_K, .dst_reg = 3, .imm = 16);
    INSN(.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = 2, .imm = 0xffff);
    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1);
    INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 3, .imm = BPF_DEVCG_ACC_MKNOD, .off = 1);
    INSN(.code = BPF_JMP | BPF_EXIT);
    for (unsigned i = 0; i < sizeof allowed / sizeof allowed[0]; i++) {
        int skip = allowed[i][1] == ANY ? 2 : 3;
        INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 2, .imm = BPF_DEVCG_DEV_CHAR, .off = skip);
        INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 4, .imm = allowed[i][0], .off = skip - 1);
        if (allowed[i][1] != ANY)
            INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 5, .imm = allowed[i][1], .off = 1);
        INSN(.code = BPF_JMP | BPF_EXIT);
    }
    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0);
    INSN(.code = BPF_JMP | BPF_EXIT);
    union bpf_attr attr = {
        .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
        .insn_cnt = n,
        .insns = (uintptr_t)insns,
        .license = (uintptr_t) "Apache-2.0",
    };
    return syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
}

static void limit_devices(int cgroup)
{
    int program = device_program();
    CALL(program);
    union bpf_attr attr = {
        .target_fd = cgroup,
        .attach_bpf_fd = program,
        .attach_type = BPF_CGROUP_DEVICE,
        .attach_flags = BPF_F_ALLOW_MULTI,
    };
    CALL(syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr));
    CALL(close(program));
}

static void mount_all(const char *rootfs)
{
    CALL(mount("", "/", NULL, MS_REC | MS_SLAVE, NULL));
    CALL(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC | MS_PRIVATE, NULL));
    CALL(chdir(rootfs));
    CALL(mount("proc", "proc", "proc", 0, NULL));
    CALL(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    CALL(mkdir("dev/pts", 0755));
    CALL(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    CALL(mkdir("dev/shm", 0755));
    CALL(mount("shm", "dev/shm", "tmpfs", MOUNT_FLAGS, "mode=1777,size=65536k"));
    CALL(mkdir("dev/mqueue", 0755));
    CALL(mount("mqueue", "dev/mqueue", "mqueue", MOUNT_FLAGS, NULL));
    CALL(mount("sysfs", "sys", "sysfs", MOUNT_FLAGS | MS_RDONLY, NULL));
    CALL(mount("cgroup", "sys/fs/cgroup", "cgroup2", MOUNT_FLAGS | MS_RELATIME | MS_RDONLY, NULL));
}

static void make_devices(void)
{
    int dev = open("dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CALL(dev);
    umask(0);
    for (unsigned i = 0; i < DEVICES; i++)
        CALL(mknodat(dev, devices[i].name, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
    CALL(symlinkat("/proc/self/fd", dev, "fd"));
    CALL(symlinkat("/proc/self/fd/0", dev, "stdin"));
    CALL(symlinkat("/proc/self/fd/1", dev, "stdout"));
    CALL(symlinkat("/proc/self/fd/2", dev, "stderr"));
    CALL(symlinkat("/proc/kcore", dev, "core"));
    CALL(symlinkat("pts/ptmx", dev, "ptmx"));
    CALL(close(dev));
    umask(022);
}

static void enter_root(void)
{
    CALL(syscall(SYS_pivot_root, ".", "."));
    CALL(umount2(".", MNT_DETACH));
    CALL(chdir("/"));
}

static void mask_paths(void)
{
    static const char *const masked[] = {
        "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
        "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
    };
    static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    for (unsigned i = 0; i < sizeof readonly / sizeof readonly[0]; i++) {
        int fd = syscall(SYS_open_tree, AT_FDCWD, readonly[i], OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE);
        if (fd < 0 && errno == ENOENT)
            continue;
        CALL(fd);
        struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
        CALL(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr));
        CALL(syscall(SYS_move_mount, fd, "", AT_FDCWD, readonly[i], MOVE_MOUNT_F_EMPTY_PATH));
        CALL(close(fd));
    }
    for (unsigned i = 0; i < sizeof masked / sizeof masked[0]; i++) {
        if (mount("/dev/null", masked[i], NULL, MS_BIND, NULL) == 0 || errno == ENOENT)
            continue;
        if (errno != ENOTDIR)
            fail(masked[i]);
        CALL(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL));
    }
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    CALL(syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &attr, sizeof attr));
}

static void drop_privileges(void)
{
    uint64_t keep = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    struct rlimit files = {1024, 1024};
    CALL(setrlimit(RLIMIT_NOFILE, &files));
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (!(keep >> cap & 1))
            CALL(prctl(PR_CAPBSET_DROP, cap));
    CALL(prctl(PR_SET_KEEPCAPS, 1));
    CALL(setgroups(0, NULL));
    CALL(setresgid(0, 0, 0));
    CALL(setresuid(0, 0, 0));
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{keep, keep, keep}, {0, 0, 0}};
    CALL(syscall(SYS_capset, &header, data));
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (keep >> cap & 1)
            CALL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0));
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static _Noreturn void container(const char *rootfs, char *const argv[])
{
    static char *const env[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL};
    CALL(setsid());
    /* Not by clone3: its cgroup namespace would be rooted at the parent's cgroup. */
    CALL(unshare(CLONE_NEWCGROUP));
    mount_all(rootfs);
    make_devices();
    enter_root();
    mask_paths();
    CALL(sethostname("floor", 5));
    drop_privileges();
    CALL(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
    execve(argv[0], argv, env);
    fail(argv[0]);
    _exit(127);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        dprintf(2, "usage: floor ROOTFS ID PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    char path[4096];
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s", argv[2]);
    CALL(mkdir(path, 0755));
    int cgroup = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    CALL(cgroup);
    limit_devices(cgroup);
    int pidfd = -1;
    struct clone_args args = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD | CLONE_INTO_CGROUP,
        .pidfd = (uintptr_t)&pidfd,
        .cgroup = cgroup,
        .exit_signal = SIGCHLD,
    };
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    CALL(child);
    if (child == 0)
        container(argv[1], argv + 3);
    siginfo_t info;
    CALL(waitid(P_PIDFD, pidfd, &info, WEXITED));
    CALL(close(cgroup));
    CALL(rmdir(path));
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}
