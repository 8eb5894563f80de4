"""Everything that is measured in one view of the host's cgroups. Runs as a process of its own,
in a private mount namespace that `run` made; prints its results as JSON."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile

import bundles
import cases
import measure

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND = 0x1000
MNT_DETACH = 2


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def mount(source, target, kind, flags):
    if LIBC.mount(source.encode(), target.encode(), kind, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def only_cgroup2():
    """Shows the runtimes a host in which /sys/fs/cgroup is cgroup2 and nothing else."""
    while os.path.ismount("/sys/fs/cgroup"):
        subprocess.run(["umount", "--recursive", "--lazy", "/sys/fs/cgroup"], check=True)
    mount("cgroup2", "/sys/fs/cgroup", b"cgroup2", 0)


class Crowd:
    """So many mounts in this mount namespace, for as long as the `with` block lasts."""

    def __init__(self, work, count):
        self.base, self.count = os.path.join(work, "mounts"), count

    def __enter__(self):
        os.mkdir(self.base)
        mount("tmpfs", self.base, b"tmpfs", 0)
        source = os.path.join(self.base, "source")
        os.mkdir(source)
        for number in range(self.count):
            target = os.path.join(self.base, str(number))
            os.mkdir(target)
            mount(source, target, None, MS_BIND)

    def __exit__(self, *_):
        LIBC.umount2(self.base.encode(), MNT_DETACH)
        os.rmdir(self.base)


class View:
    """The measurements of one view, with the sizes that `run` asked for."""

    def __init__(self, plan, work):
        self.plan, self.work = plan, work
        self.tools = plan["tools"]
        netns = os.path.join(work, "namespace")
        open(netns, "w").close()
        subprocess.run(["unshare", f"--net={netns}", "true"], check=True)
        self.bundles = bundles.write_all(work, netns)
        self.runtimes = []
        # Like /run, where runtimes keep their state.
        os.mkdir(os.path.join(work, "state"))
        mount("tmpfs", os.path.join(work, "state"), b"tmpfs", 0)
        for name, path in plan["runtimes"].items():
            root = os.path.join(work, "state", name)
            os.makedirs(root)
            self.runtimes.append(cases.Runtime(name, path, root))
        self.cases = [
            case
            for case in cases.all_cases(self.bundles, work, self.tools)
            if (case.hybrid or not plan["hybrid"]) and (not plan["only"] or case.name in plan["only"])
        ]

    def usable(self):
        """The runtimes that run the plain bundle here; says what the others answered."""
        plain = next(c for c in cases.all_cases(self.bundles, self.work, self.tools) if c.name == "run")
        able, refused = measure.possible(plain, self.runtimes)
        if not able:
            raise SystemExit("bench: no runtime runs the plain bundle: " + "; ".join(refused.values()))
        for name, why in refused.items():
            say(f"{name} is left out: {why}")
        return able, refused

    def fleets(self, runtimes):
        rates = {}
        for at_a_time in self.plan["at_a_time"]:
            found = rates.setdefault(str(at_a_time), {r.name: [] for r in runtimes})
            for _ in range(self.plan["fleet_rounds"]):
                for runtime in runtimes:
                    count = self.plan["fleet"]
                    try:
                        found[runtime.name].append(
                            measure.fleet(runtime, count, at_a_time, self.bundles["plain"], self.tools)
                        )
                    except measure.Failed as error:
                        say(f"{runtime.name}, {at_a_time} at a time: {error}")
                        measure.sweep("/sys/fs/cgroup")
        return rates

    def crowd(self, runtimes):
        """`run` on an empty host, beside many containers, and among many mounts."""
        case = next(c for c in self.cases if c.name == "run")
        rounds, runs, alive, mounts = (self.plan[k] for k in ("rounds", "runs", "alive", "mounts"))
        rounds = max(rounds // 3, 1)
        rows = {"with nothing else": measure.time_case(case, runtimes, rounds, runs)["samples"]}
        beside = rows.setdefault(f"beside {alive:,} containers of the same runtime", {})
        floor = [r for r in runtimes if r.is_floor]
        for runtime in [r for r in runtimes if not r.is_floor]:
            try:
                measure.populate(runtime, alive, self.bundles["plain-stay"], self.tools)
                beside |= measure.time_case(case, [runtime, *floor], rounds, runs)["samples"]
                floor = []
            except measure.Failed as error:
                say(f"{runtime.name} beside {alive} containers: {error}")
            measure.depopulate(runtime, alive)
        with Crowd(self.work, mounts):
            among = measure.time_case(case, runtimes, rounds, runs)["samples"]
        rows[f"among {mounts:,} mounts"] = among
        return rows

    def measure(self):
        able, refused = self.usable()
        result = {"cases": {}, "fleet": {}, "resources": {}, "crowd": {}, "left_out": refused}
        for case in self.cases:
            say(case.title)
            result["cases"][case.name] = measure.time_case(case, able, self.plan["rounds"], self.plan["runs"])
        programs = [r for r in able if not r.is_floor]
        if self.plan["at_a_time"]:
            say("containers per second")
            result["fleet"] = self.fleets(programs)
        if self.plan["resources"]:
            say("memory and system calls")
            for case in self.cases:
                if case.name in self.plan["resources"]:
                    result["resources"][case.name] = measure.resources(case, able, self.tools)
        if self.plan["alive"] and any(c.name == "run" for c in self.cases):
            say("crowded host")
            result["crowd"] = self.crowd(able)
        return result


def main():
    plan = json.load(sys.stdin)
    if not plan["hybrid"]:
        only_cgroup2()
    try:
        os.nice(-15)  # builds of the same machine shall wait, not what is measured
    except OSError:
        pass
    measure.sweep("/sys/fs/cgroup")
    work = tempfile.mkdtemp(prefix="berth-bench-")
    os.chmod(work, 0o755)  # the mapped root of a user namespace must get through
    try:
        json.dump(View(plan, work).measure(), sys.stdout)
    finally:
        measure.sweep("/sys/fs/cgroup")
        for place in ("namespace", "state"):
            LIBC.umount2(os.path.join(work, place).encode(), MNT_DETACH)
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
