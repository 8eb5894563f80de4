"""Measuring: hyperfine in interleaved rounds, resources by wait4, system calls by strace."""

import json
import os
import re
import shlex
import subprocess
import tempfile


# Seconds that a block of runs, a fleet or a crowd may take at most: a runtime that hangs must not hold up the others.
BOUND = 600


class Failed(Exception):
    """A runtime cannot do a case; the text is the last line that it said."""


def attempt(command):
    """Runs a command line once, output shown to nobody; raises Failed with its last words."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=120, check=False
        )
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    if done.returncode != 0:
        raise Failed(lines[-1] if lines else f"exit code {done.returncode}")


def hyperfine(commands, prepares, runs, warmup):
    """Times each command `runs` times in a block; gives hyperfine's result of each."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        line = ["hyperfine", "-N", "--style", "none", "--warmup", str(warmup), "--runs", str(runs)]
        line += ["--export-json", out.name]
        for prepare in prepares:
            line += ["--prepare", prepare]
        line += commands
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"a block of {runs} runs took more than {BOUND} s") from error
        if done.returncode != 0:
            raise Failed(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "hyperfine failed")
        return json.load(out)["results"]


def possible(case, runtimes):
    """Tries the case once on each runtime; gives those that can, and why the others cannot."""
    able, refused = [], {}
    for runtime in runtimes:
        if runtime.is_floor and not case.floor:
            continue
        try:
            if case.once:
                attempt(case.once(runtime))
            if case.prepare:
                attempt(case.prepare(runtime))
            attempt(case.timed(runtime))
            able.append(runtime)
        except (Failed, subprocess.TimeoutExpired) as error:
            refused[runtime.name] = str(error)
    return able, refused


def interleaved(case, runtimes, rounds, runs):
    """Rounds in which every runtime has a block of `runs`; the order turns with each round."""
    samples = {r.name: {"times": [], "user": [], "system": [], "rounds": []} for r in runtimes}
    for number in range(rounds):
        turn = number % len(runtimes)
        order = runtimes[turn:] + runtimes[:turn]
        prepares = [case.prepare(r) for r in order] if case.prepare else []
        results = hyperfine([case.timed(r) for r in order], prepares, runs, 1)
        for runtime, result in zip(order, results):
            sample = samples[runtime.name]
            sample["times"] += [t * 1000 for t in result["times"]]
            sample["rounds"].append(result["median"] * 1000)
            sample["user"].append(result["user"] * 1000)
            sample["system"].append(result["system"] * 1000)
    return samples


def time_case(case, runtimes, rounds, runs):
    """Measures one case on all runtimes that can do it."""
    able, refused = possible(case, runtimes)
    samples = interleaved(case, able, rounds, runs) if able else {}
    for runtime in able:
        if case.after:
            attempt(case.after(runtime))
    return {"title": case.title, "samples": samples, "refused": refused}


def resources(case, runtimes, tools):
    """Peak memory, page faults and system calls of one run of a case, for each runtime."""
    found = {}
    able, _ = possible(case, runtimes)
    for runtime in able:
        usages = []
        for _ in range(5):
            if case.prepare:
                attempt(case.prepare(runtime))
            line = [tools["driver"], "usage", *shlex.split(case.timed(runtime))]
            usages.append(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout))
        if case.prepare:
            attempt(case.prepare(runtime))
        found[runtime.name] = {
            "peak_kib": sorted(u["peak_kib"] for u in usages)[len(usages) // 2],
            "faults": min(u["faults"] for u in usages),
            "calls": system_calls(case.timed(runtime)),
        }
        if case.after:
            attempt(case.after(runtime))
    return found


def system_calls(command):
    """Name -> count over all processes of a command, the container's program among them."""
    with tempfile.NamedTemporaryFile("r") as out:
        line = ["strace", "--follow-forks", "--summary-only", "--output", out.name, *shlex.split(command)]
        subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOUND, check=True)
        rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", out.read(), re.MULTILINE)
    return {name: int(count) for count, name in rows if name != "total"}


def driven(line):
    """Output of the driver. Errors go to a file: containers that live on hold a pipe open."""
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=BOUND,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{line[1]} took more than {BOUND} s") from error
        errors.seek(0)
        if done.returncode != 0:
            raise Failed((errors.read().strip() or f"{line[1]} failed").splitlines()[-1])
    return done.stdout


def fleet(runtime, count, at_a_time, bundle, tools):
    """Containers a second through create, start and delete, so many at a time."""
    line = [tools["driver"], "fleet", str(count), str(at_a_time), f"berth-bench-{runtime.name}-"]
    line += [runtime.path, runtime.root, bundle]
    result = json.loads(driven(line))
    return result["containers"] / result["seconds"]


def populate(runtime, count, bundle, tools):
    """Leaves so many containers running."""
    line = [tools["driver"], "populate", str(count), f"berth-bench-{runtime.name}-alive-"]
    line += [runtime.path, runtime.root, bundle]
    driven(line)


def depopulate(runtime, count):
    """Removes what populate left."""
    for number in range(count):
        subprocess.run(
            shlex.split(runtime.command("delete", "--force", f"berth-bench-{runtime.name}-alive-{number}")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )


def sweep(cgroup_root):
    """Ends whatever containers of a benchmark are left in a cgroup tree, and removes their cgroups."""
    for directory, children, _ in os.walk(cgroup_root):
        for name in [c for c in children if c.startswith("berth-bench-")]:
            path = os.path.join(directory, name)
            kill = os.path.join(path, "cgroup.kill")
            if os.path.exists(kill):
                with open(kill, "w", encoding="ascii") as file:
                    file.write("1")
            for _ in range(100):
                try:
                    os.rmdir(path)
                    break
                except OSError:
                    subprocess.run(["sleep", "0.05"], check=False)
            children.remove(name)
