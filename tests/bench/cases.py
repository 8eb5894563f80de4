"""The cases: what is timed, and what brings a runtime into position before each timing."""

from dataclasses import dataclass
from shlex import quote


@dataclass(frozen=True)
class Runtime:
    """A program to measure; `path` is absolute, `root` the directory of its state."""

    name: str
    path: str
    root: str

    @property
    def is_floor(self):
        return self.name == "floor"

    def command(self, *words):
        return " ".join([self.path, "--root", self.root, *words])

    @property
    def id(self):
        return f"berth-bench-{self.name}"


@dataclass(frozen=True)
class Case:
    """One row: `timed` is measured; `once` comes before and `after` after all of its runs,
    `prepare` before each. All are functions from a runtime to a command line, or None."""

    name: str
    title: str
    timed: object
    once: object = None
    prepare: object = None
    after: object = None
    floor: bool = False
    hybrid: bool = False


def shell(*commands):
    return "sh -c " + quote(" && ".join(commands))


def all_cases(bundles, work, tools):
    """The cases that hyperfine times, in the order of the table."""
    floor_rootfs = f"{work}/rootfs"

    def run(bundle):
        def timed(runtime):
            if runtime.is_floor:
                return f"{runtime.path} {floor_rootfs} {runtime.id} /bin/true"
            return runtime.command("run", "--bundle", bundles[bundle], runtime.id)

        return timed

    def pidfile(runtime):
        return f"{work}/{runtime.name}.pid"

    def clear(runtime):
        return runtime.command("delete", "--force", runtime.id) + " >/dev/null 2>&1 || true"

    def verb(*words):
        return lambda runtime: runtime.command(*words, runtime.id)

    def create(bundle):
        return lambda r: r.command("create", "--pid-file", pidfile(r), "--bundle", bundles[bundle], r.id)

    def detach(bundle):
        return lambda r: r.command("run", "--detach", "--pid-file", pidfile(r), "--bundle", bundles[bundle], r.id)

    def position(*steps):
        """Removes the container of the run before, then takes these steps."""

        def prepare(runtime):
            quiet = [f"{step(runtime)} >/dev/null 2>&1 </dev/null" for step in steps]
            return "sh -c " + quote("; ".join([clear(runtime), " && ".join(quiet)]) if quiet else clear(runtime))

        return prepare

    def gone(runtime):
        return f"{tools['driver']} gone {pidfile(runtime)}"

    start = verb("start")
    cleared = position()

    def execute(runtime):
        return runtime.command("exec", runtime.id, "/bin/true")

    def kill(runtime):
        return runtime.command("kill", runtime.id, "KILL")

    return [
        Case("run", "run `true`, plain bundle", run("plain"), floor=True, hybrid=True),
        Case("run-engine", "run `true`, engine-like bundle with seccomp", run("engine"), hybrid=True),
        Case(
            "exec",
            "exec `true`",
            execute,
            once=position(detach("plain-stay")),
            after=cleared,
            hybrid=True,
        ),
        Case(
            "exec-engine",
            "exec `true`, engine-like bundle with seccomp",
            execute,
            once=position(detach("engine-stay")),
            after=cleared,
        ),
        Case("create", "create", create("plain-stay"), prepare=cleared, after=cleared, hybrid=True),
        Case(
            "start", "start", start, prepare=position(create("plain-stay")), after=cleared, hybrid=True
        ),
        Case(
            "kill", "kill", kill, prepare=position(detach("plain-stay")), after=cleared, hybrid=True
        ),
        Case(
            "delete",
            "delete",
            verb("delete"),
            prepare=position(detach("plain"), gone),
            after=cleared,
            hybrid=True,
        ),
        Case(
            "detach",
            "run --detach --pid-file",
            detach("plain-stay"),
            prepare=cleared,
            after=cleared,
        ),
        Case("userns", "run `true`, user namespace", run("userns")),
        Case("idmapped", "run `true`, user namespace, idmapped mounts", run("idmapped")),
        Case("netns", "run `true`, network namespace by path", run("netns")),
        Case("state", "state", verb("state"), once=position(detach("plain-stay")), after=cleared),
    ]
