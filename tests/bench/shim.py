#!/usr/bin/env python3
"""shim.py PROGRAMS [ROUNDS]: what containerd's users wait for and pay for, with Berth's shim and with containerd's own.

Starts containerd in namespaces of its own and runs `ctr run --rm ROOTFS ID /bin/true` ROUNDS times (25) with each pair of
shim and runtime, one after the other in every round; then measures the proportional set size of an idle shim with one
container and with eleven of one pod. PROGRAMS is the folder with `berth` and `containerd-shim-berth-v2`. Prints a table;
ends with 1 if a bar is missed: 0.75 of the time of containerd's shim with runc (medians), 2 MiB, and 0.2 MiB for each
further container."""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

OURS, THEIRS, MIXED = "Berth's shim, berth", "containerd's shim, runc", "containerd's shim, berth"
FURTHER = 10


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def until(condition, what):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.02)


class Containerd:
    def __init__(self, root, programs):
        self.root, self.socket = root, f"{root}/s"
        self.rootfs = f"{root}/rootfs"
        for folder in ("bin", "dev", "proc", "sys", "tmp"):
            os.makedirs(f"{self.rootfs}/{folder}")
        shutil.copy(shutil.which("busybox"), f"{self.rootfs}/bin/busybox")
        for applet in ("true", "sleep"):
            os.symlink("busybox", f"{self.rootfs}/bin/{applet}")
        self.pairs = {
            OURS: ["--runtime", "io.containerd.berth.v2"],
            THEIRS: ["--runtime", "io.containerd.runc.v2"],
            MIXED: ["--runtime", "io.containerd.runc.v2", "--runc-binary", f"{programs}/berth"],
        }
        pathlib.Path(f"{root}/config.toml").write_text(
            f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.socket}"\n'
        )
        log = open(f"{root}/log", "w")
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"}
        self.daemon = subprocess.Popen(
            ["containerd", "--config", f"{root}/config.toml"], stdout=log, stderr=log, env=environment
        )
        until(lambda: subprocess.run(["ctr", "-a", self.socket, "version"], capture_output=True).returncode == 0, "containerd")

    def ctr(self, *arguments):
        return run("ctr", "-a", self.socket, "-n", "bench", *arguments)

    def time(self, pair, number):
        begin = time.monotonic()
        self.ctr("run", "--rm", "--null-io", *self.pairs[pair], "--rootfs", self.rootfs, f"t{number}", "/bin/true")
        return time.monotonic() - begin

    def sizes(self, pair):
        """Kibibytes of the pod's shim with one container, and with FURTHER more."""
        found, ids = [], [f"p{number}" for number in range(FURTHER + 1)]
        for number, name in enumerate(ids):
            self.ctr("run", "--detach", "--null-io", *self.pairs[pair], "--annotation", "io.kubernetes.cri.sandbox-id=pod",
                     "--rootfs", self.rootfs, name, "/bin/sleep", "100000")
            if number in (0, FURTHER):
                found.append(min(self.size() for _ in range(10)))
        for name in ids:
            self.ctr("tasks", "kill", "--signal", "9", name)
        for name in ids:
            until(lambda: self.status(name) == "STOPPED", f"the end of {name}")
            subprocess.run(["ctr", "-a", self.socket, "-n", "bench", "tasks", "rm", name], capture_output=True)
            self.ctr("containers", "rm", name)
        return found

    def status(self, name):
        lines = [line.split() for line in self.ctr("tasks", "ls").splitlines()]
        return next((line[2] for line in lines if line[0] == name), None)

    def size(self):
        time.sleep(0.2)
        shims = run("pgrep", "-f", "containerd-shim-[a-z]*-v2 -namespace").split()
        if len(shims) != 1:
            sys.exit(f"one shim for the pod was expected, not {shims}")
        text = pathlib.Path(f"/proc/{shims[0]}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    programs = pathlib.Path(sys.argv[1]).resolve()
    if "BERTH_BENCH_INSIDE" not in os.environ:
        os.environ["BERTH_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child",
                              sys.executable, *sys.argv])
    rounds = int(sys.argv[2]) if len(sys.argv) == 3 else 25
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as root:
        containerd = Containerd(root, programs)
        times = {pair: [] for pair in containerd.pairs}
        for number in range(rounds + 1):
            for pair in times:
                took = containerd.time(pair, number)
                if number:  # The first round only warms up.
                    times[pair].append(took)
        sizes = {pair: containerd.sizes(pair) for pair in (OURS, THEIRS)}
        containerd.daemon.terminate()
        containerd.daemon.wait()
    reference = statistics.median(times[THEIRS])
    for pair, list_of_them in times.items():
        median = statistics.median(list_of_them)
        print(f"{pair:26} ctr run --rm true: minimum {min(list_of_them) * 1000:5.0f} ms, median {median * 1000:5.0f} ms, "
              f"ratio {median / reference:.2f}")
    for pair, (one, all_of_them) in sizes.items():
        print(f"{pair:26} PSS of a shim: {one / 1024:.2f} MiB with one container, "
              f"{(all_of_them - one) / FURTHER / 1024:.3f} MiB for each further one")
    one, all_of_them = sizes[OURS]
    held = statistics.median(times[OURS]) <= 0.75 * reference and one <= 2048 and all_of_them - one <= 0.2 * 1024 * FURTHER
    sys.exit(0 if held else "a bar is missed: 0.75, 2 MiB, 0.2 MiB")


main()
