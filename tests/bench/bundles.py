"""The bundles that the cases run: a root file system of busybox, and configurations around it."""

import copy
import json
import os
import shutil

from seccomp import profile

ENGINE_BINDS = 13  # with the 12 mounts that follow below: 25
ENGINE_VARIABLES = 40
ID_OFFSET = 100000
DEFAULT_CAPABILITIES = """CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW
CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL
CAP_AUDIT_WRITE""".split()


def rootfs(path):
    """Fills a directory with busybox and the mount points that the configurations name."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("bench: busybox is missing: apt-get install busybox-static")
    for sub in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "data"):
        os.makedirs(os.path.join(path, sub))
    shutil.copy(busybox, os.path.join(path, "bin/busybox"))
    for applet in ("true", "sleep", "sh"):
        os.symlink("busybox", os.path.join(path, "bin", applet))
    for name in ("resolv.conf", "hostname", "hosts"):
        open(os.path.join(path, "etc", name), "w").close()
    for number in range(ENGINE_BINDS):
        os.mkdir(os.path.join(path, "data", str(number)))


def plain(args):
    """The configuration of `runc spec` in a cgroup v2 host, with `terminal` false."""
    caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    noexec = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: caps for kind in ("bounding", "effective", "permitted", "ambient")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*noexec, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": noexec},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*noexec, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*noexec, "relatime", "ro"],
            },
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": t} for t in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "maskedPaths": [
                *("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
                *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"),
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def engine(args, work):
    """What an engine writes: a seccomp profile, 25 mounts, 40 variables, 14 capabilities."""
    config = plain(args)
    process = config["process"]
    process["capabilities"] = {kind: DEFAULT_CAPABILITIES for kind in ("bounding", "effective", "permitted")}
    process["env"] += [
        f"SERVICE_{n}_ADDRESS=tcp://10.0.{n}.1:8080" for n in range(ENGINE_VARIABLES - len(process["env"]))
    ]
    process["oomScoreAdj"] = 0
    process["noNewPrivileges"] = False
    config["root"]["readonly"] = False
    config["annotations"] = {f"org.example.engine.{n}": f"value {n}" for n in range(8)}
    source = os.path.join(work, "host")
    config["mounts"] += [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "size=1m"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=755"]},
    ]
    for name in ("resolv.conf", "hostname", "hosts"):
        path = os.path.join(source, name)
        options = ["rbind", "rprivate", "rw"]
        config["mounts"].append({"destination": f"/etc/{name}", "type": "bind", "source": path, "options": options})
    for number in range(ENGINE_BINDS):
        options = ["rbind", "rprivate", "ro" if number % 2 else "rw"]
        path = os.path.join(source, str(number))
        config["mounts"].append({"destination": f"/data/{number}", "type": "bind", "source": path, "options": options})
    config["linux"]["maskedPaths"] += ["/proc/interrupts", "/sys/devices/virtual/powercap"]
    config["linux"]["seccomp"] = profile()
    return config


def userns(args):
    """The plain configuration in a user namespace of its own."""
    config = plain(args)
    config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind] = [{"containerID": 0, "hostID": ID_OFFSET, "size": 65536}]
    return config


def idmapped(args, work):
    """[`userns`] with two bind mounts whose owners are shifted."""
    config = userns(args)
    for number in range(2):
        mount = {
            "destination": f"/data/{number}",
            "type": "bind",
            "source": os.path.join(work, "host", str(number)),
            "options": ["bind", "rprivate", "idmap"],
        }
        for kind in ("uidMappings", "gidMappings"):
            mount[kind] = [{"containerID": 0, "hostID": ID_OFFSET, "size": 65536}]
        config["mounts"].append(mount)
    return config


def joining(args, netns):
    """The plain configuration in a network namespace that exists."""
    config = plain(args)
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = netns
    return config


def write_all(work, netns):
    """Makes every bundle below `work`; gives name -> directory. They share one root file system."""
    os.makedirs(os.path.join(work, "host"))
    for name in ("resolv.conf", "hostname", "hosts"):
        open(os.path.join(work, "host", name), "w").close()
    for number in range(ENGINE_BINDS):
        os.mkdir(os.path.join(work, "host", str(number)))
    shared = os.path.join(work, "rootfs")
    rootfs(shared)
    stay = ["/bin/sleep", "1000000"]
    configs = {
        "plain": plain(["/bin/true"]),
        "plain-stay": plain(stay),
        "engine": engine(["/bin/true"], work),
        "engine-stay": engine(stay, work),
        "userns": userns(["/bin/true"]),
        "idmapped": idmapped(["/bin/true"], work),
        "netns": joining(["/bin/true"], netns),
    }
    bundles = {}
    for name, config in configs.items():
        directory = os.path.join(work, name)
        os.mkdir(directory)
        config = copy.deepcopy(config)
        config["root"]["path"] = shared
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file, indent=1)
        bundles[name] = directory
    return bundles
