"""A place for one engine: mount, pid and network namespaces and a /run of its own, entered by nsenter.

What an engine has used of the processors is what the processes of its pid namespace have, with those that they have
waited for; the first process waits for all orphans.
"""
import contextlib, ctypes, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, threading, time

ADDRESS = "192.0.2.1"
INIT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
ip link set lo up
# A way out, as hosts have one: it leads to nobody.
ip link add up0 type veth peer name up1
ip address add 192.0.2.1/24 dev up0
ip link set up0 up
ip link set up1 up
ip route add default via 192.0.2.2
touch "$1/ready"
trap : TERM
while :; do sleep 3600 & wait $!; done
"""
TICK = os.sysconf("SC_CLK_TCK")
CLONE_NEWNET = 0x40000000


def until(condition, what, seconds=120, pause=0.02):
    """Waits for a condition; gives back what it gave."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(pause)


class Failed(RuntimeError):
    """A command that did not succeed."""


class Lab:
    def __init__(self, name):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"berth-bench-{name}-"))
        self.name = self.path.name
        self.daemons = []
        self.outer = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child",
             "bash", "-c", INIT, "lab", self.path], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # Whoever ends us ends it by us.
            start_new_session=True)
        until((self.path / "ready").exists, "the namespaces")
        children = pathlib.Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text()
        self.init = int(children.split()[0])

    def command(self, arguments):
        return ["nsenter", "--target", str(self.init), "--mount", "--pid", "--net", "--", *map(str, arguments)]

    def run(self, *arguments, env=None, input=None, check=True):
        """Output, and seconds of processor of the command and what it has waited for."""
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(
                self.command(arguments), stdin=subprocess.PIPE if input else subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, cwd=self.path)
            if input:
                child.stdin.write(input)
                child.stdin.close()
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            text = out.read().decode(errors="replace")
        if check and child.returncode:
            raise Failed(f"{' '.join(map(str, arguments))}: {text.strip()[-2000:]}")
        return text, used.ru_utime + used.ru_stime

    def daemon(self, *arguments, env=None):
        """Starts a program that goes on; its output is in `log`."""
        with open(self.path / "log", "ab") as log:
            child = subprocess.Popen(self.command(arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**os.environ, **(env or {})}, cwd=self.path)
        self.daemons.append(child)
        return child

    def log(self):
        with contextlib.suppress(OSError):
            return (self.path / "log").read_text(errors="replace")[-3000:]
        return ""

    def proc(self):
        """/proc of the lab."""
        return pathlib.Path(f"/proc/{self.init}/root/proc")

    def processes(self):
        """Numbers in the lab of the living processes, with their names."""
        found = {}
        for entry in self.proc().iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
        return found

    def cpu(self):
        """Seconds of processor that everything in the lab has used so far."""
        total = 0.0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += seconds(self.proc() / str(pid))
        return total

    def connect(self, address):
        """A connection from inside the lab's network; the address is a path, or host and port."""
        result = []

        def work():
            try:
                with open(f"/proc/{self.init}/ns/net") as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                if isinstance(address, tuple):
                    connection = socket.create_connection(address, timeout=60)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                else:
                    connection = socket.socket(socket.AF_UNIX)
                    connection.connect(str(address))
                result.append(connection)
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def close(self):
        """Ends everything: the first process takes all others with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self.outer.wait()
        for child in self.daemons:
            child.wait()
        # Others make and remove cgroups meanwhile, which walk passes over.
        ours = [f"{above}/{self.name}" for above, below, _ in os.walk("/sys/fs/cgroup") if self.name in below]
        for top in ours:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        shutil.rmtree(self.path, ignore_errors=True)


def seconds(process):
    """Seconds of processor of a process, and of its children that it has waited for."""
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    precise = 0
    for task in (process / "task").iterdir():
        with contextlib.suppress(OSError):
            precise += int((task / "schedstat").read_text().split()[0])
    # Ticks are cut off, and threads that have ended are only in them.
    return max(own / TICK, precise / 1e9) + children / TICK


def pss(process):
    """KiB of memory, shared pages divided among those who share them."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"{process} has no PSS")


def written(process):
    """Bytes that a process has caused to be written to disks."""
    for line in (process / "io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def host_pid(lab, pid):
    """The number that the host has for a process of the lab."""
    namespace = os.readlink(f"/proc/{lab.init}/ns/pid_for_children")
    for entry in pathlib.Path("/proc").iterdir():
        try:
            line = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("NSpid:"))
        except (OSError, StopIteration):
            continue
        numbers = line.split()[1:]
        if len(numbers) >= 2 and numbers[1] == str(pid) and in_lab(entry, namespace):
            return int(entry.name)
    raise RuntimeError(f"no process {pid} in the lab")


def in_lab(entry, namespace):
    """Whether a process is in the lab's pid namespace or in one below: one of its ancestors is."""
    while entry.name not in ("0", "1"):
        if os.readlink(entry / "ns/pid") == namespace:
            return True
        entry = pathlib.Path("/proc") / (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
    return False


def say(text):
    print(text, file=sys.stderr, flush=True)
