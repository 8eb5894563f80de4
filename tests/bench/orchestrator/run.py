#!/usr/bin/env python3
"""What the orchestrator costs, beside podman kube play and Docker Swarm.

usage: run.py BIN_DIR [--rounds N] [--replicas N] [--many N] [--pods N] [--idle SECONDS] [--rate N]
              [--parts memory,start,many,idle,back,load] [--out FILE]

BIN_DIR has berthd, berthctl, berth, berth-monitor, cni-plugins and user-service. Every engine has namespaces and
folders of its own, and runs the same image; what cannot run here is skipped, with the reason. Measured are: replicas of
the example application from apply to Available (in turn, each round every engine once), ten times as many, what a pod
costs in memory, what idle pods cost, how soon a killed container answers again, and requests that fail while pods are
replaced, removed and evicted. Prints tables with each bar and whether it is met, keeps the numbers as JSON, and ends
with 1 if a bar is missed.
"""
import argparse, json, os, pathlib, signal, statistics, subprocess, sys, time

# No folders of compiled files beside the sources.
sys.dont_write_bytecode = True

from berth import APPLICATION, Berth, service
from lab import alive, host_pid, pss, say, seconds, until, written
from peers import Absent, Podman, Swarm

BARS = {"time": 0.25, "cpu": 0.2, "many": 1.0, "berthd": 0.25, "monitor": 1.0, "idle": 0.1, "written": 0, "back": 150,
        "failed": 0, "rate": 0.95}


class Results:
    def __init__(self):
        self.values, self.missed = {}, []

    def bar(self, what, value, bar):
        good = value <= bar
        if not good:
            self.missed.append(what)
        return f"{'pass' if good else 'FAIL'} (at most {bar})"

    def floor(self, what, value, bar):
        good = value >= bar
        if not good:
            self.missed.append(what)
        return f"{'pass' if good else 'FAIL'} (at least {bar})"


def spread(values):
    return {"median": statistics.median(values), "minimum": min(values), "all": values}


def start_up(node, arguments, results):
    """Replicas from apply to Available, engines in turn."""
    archive = node.lab.path / "application.tar"
    node.ctl("image", "tag", f"{APPLICATION}:1", f"localhost/{APPLICATION}:1")
    node.ctl("image", "save", f"localhost/{APPLICATION}:1", "-o", archive)
    engines = [node]
    for kind in (Podman, Swarm):
        try:
            engines.append(kind(archive))
        except Absent as reason:
            print(f"SKIP {kind.name}: {reason}")
    times, cpu = {e.name: [] for e in engines}, {e.name: [] for e in engines}
    try:
        for number in range(arguments.rounds + 1):
            for engine in list(engines):
                say(f"round {number} of {arguments.rounds}: {engine.name}")
                try:
                    taken = engine.deploy(arguments.replicas)
                    engine.remove()
                except RuntimeError as error:
                    if engine is node:
                        raise
                    print(f"SKIP {engine.name}: {error}")
                    engines.remove(engine)
                    times.pop(engine.name), cpu.pop(engine.name)
                    engine.close()
                    continue
                # The first warms everybody up: Podman builds its pause image then.
                if number:
                    times[engine.name].append(taken[0])
                    cpu[engine.name].append(taken[1])
    finally:
        for engine in engines[1:]:
            engine.close()
    results.values["start"] = {name: {"seconds": spread(times[name]), "cpu": spread(cpu[name])} for name in times}
    print(f"\n{arguments.replicas} replicas from apply to Available, {arguments.rounds} rounds in turn\n")
    print("| | seconds, median | minimum | CPU seconds, median | minimum |\n| --- | --- | --- | --- | --- |")
    for name, found in results.values["start"].items():
        print(f"| {name} | {found['seconds']['median']:.2f} | {found['seconds']['minimum']:.2f} "
              f"| {found['cpu']['median']:.2f} | {found['cpu']['minimum']:.2f} |")
    peers = [found for name, found in results.values["start"].items() if name != node.name]
    if peers:
        ours = results.values["start"][node.name]
        for what, key in (("time", "seconds"), ("cpu", "cpu")):
            ratio = ours[key]["median"] / min(peer[key]["median"] for peer in peers)
            results.values[f"ratio of {what}"] = ratio
            print(f"\n{what}: {ratio:.2f} of the better peer: {results.bar(f'start, {what}', ratio, BARS[what])}")


def many(node, arguments, results):
    """Ten times as many replicas: more than linear? In turn, three times."""
    few, taken = [], []
    for _ in range(3):
        few.append(node.deploy(arguments.replicas)[0])
        node.remove()
        taken.append(node.deploy(arguments.many))
        node.remove()
    seconds_, cpu = (statistics.median(column) for column in zip(*taken))
    factor = seconds_ / statistics.median(few) / (arguments.many / arguments.replicas)
    results.values["many"] = {"replicas": arguments.many, "seconds": seconds_, "cpu": cpu, "of linear": factor}
    print(f"\n{arguments.many} replicas: {seconds_:.2f} s, {cpu:.2f} CPU s: {factor:.2f} of linear: "
          f"{results.bar('many replicas', factor, BARS['many'])}")


def settle(node, for_seconds=1):
    """Waits until berthd has written nothing for so long."""
    def quiet():
        before = written(node.process())
        time.sleep(for_seconds)
        return written(node.process()) == before
    until(quiet, "berthd to be quiet", 90)


def memory(node, arguments, results):
    """What a pod costs, with all pods of the test running at the end."""
    held = {}
    for count in (arguments.pods // 5, arguments.pods):
        node.deploy(count)
        settle(node)
        held[count] = pss(node.process())
        say(f"memory: {count} pods: {held[count]} KiB")
    few, all_ = sorted(held)
    each = (held[all_] - held[few]) / (all_ - few) / 1024
    monitors = sorted(pss(monitor) / 1024 for monitor in node.monitors())
    results.values["memory"] = {"berthd KiB": held, "MiB a further pod": each, "monitors MiB": spread(monitors)}
    print(f"\nmemory (PSS): berthd {held[few] / 1024:.1f} MiB with {few} pods, {held[all_] / 1024:.1f} MiB with {all_}: "
          f"{each:.3f} MiB a pod: {results.bar('memory of berthd', each, BARS['berthd'])}")
    node.remove()
    print(f"memory (PSS): monitors, MiB: median {statistics.median(monitors):.2f}, most {monitors[-1]:.2f}: "
          f"{results.bar('memory of monitors', monitors[-1], BARS['monitor'])}")


def idle(node, arguments, results):
    """Pods without probes: nothing is to be done. And with a probe a second each, for the cost of these."""
    found = {}
    for probe in (True, False):
        node.deploy(arguments.pods, probe=probe)
        until(lambda: len(node.pods()) == arguments.pods, "the old pods to be gone")
        settle(node, 5)
        processes = [node.process(), *node.monitors()]
        before, wrote = node.used(), sum(map(written, processes))
        time.sleep(arguments.idle)
        after, now = node.used(), sum(map(written, processes))
        percent = [100 * (a - b) / arguments.idle for a, b in zip(after, before)]
        found["probes" if probe else "no probes"] = {"percent of a core": percent, "bytes written": now - wrote}
    results.values["idle"] = {"seconds": arguments.idle, "pods": arguments.pods, **found}
    used, bytes_ = found["no probes"]["percent of a core"], found["no probes"]["bytes written"]
    print(f"\nidle with {arguments.pods} pods for {arguments.idle} s: berthd and the checks of its network {used[0]:.3f} %, all "
          f"monitors {used[1]:.3f} % of a core: {results.bar('idle processor', sum(used), BARS['idle'])}")
    print(f"idle: {bytes_} bytes written: {results.bar('idle writes', bytes_, BARS['written'])}")
    print(f"the same with a readiness probe a second for each pod: {sum(found['probes']['percent of a core']):.3f} % of a core")


def back(node, arguments, results):
    """From SIGKILL of a container's process until the pod answers again; each pod once, so that no back-off counts."""
    times = []
    if not node.pods():
        node.deploy(arguments.replicas)
    for pod in node.pods()[:20]:
        address, (run, pid) = pod["status"]["podIP"], node.run_of(pod)
        host = host_pid(node.lab, pid)
        begin = time.monotonic()
        os.kill(host, signal.SIGKILL)
        until(lambda: not alive(host), "the process to be gone", pause=0.0005)
        until(lambda: answers(node, address), "the pod to answer", pause=0.002)
        times.append((time.monotonic() - begin) * 1000)
        if node.run_of(pod)[0] != run + 1:
            raise RuntimeError("the container did not run again")
    results.values["back ms"] = spread(times)
    print(f"\na killed container answers again, {len(times)} times: median {statistics.median(times):.0f} ms, "
          f"minimum {min(times):.0f}, most {max(times):.0f}: "
          f"{results.bar('a killed container', statistics.median(times), BARS['back'])}")


def answers(node, address):
    try:
        connection = node.lab.connect((address, 8080))
    except OSError:
        return False
    with connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def under_load(node, arguments, results):
    """Requests by the Service's address while pods are replaced, removed and evicted."""
    if node.pods():
        node.remove()
    node.deploy(arguments.replicas)
    node.apply(service())
    address = node.api("GET", "/api/v1/namespaces/default/services/web")[1]["spec"]["clusterIP"]
    until(lambda: reached(node, address), "the Service")
    script = pathlib.Path(__file__).with_name("load.py")
    before = conntrack(node)
    load = subprocess.Popen(node.lab.command([sys.executable, script, address, 80, arguments.rate]),
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(load.stdout.readline())]

    def phase(name, work, count):
        say(f"under load: {name}")
        begin, first = time.monotonic(), len(lines)
        work()
        say("  done; waiting for the pods")
        until(lambda: len(node.pods()) == count and all(ready(pod) for pod in node.pods()), name)
        taken = time.monotonic() - begin
        # The lines of this phase wait in the pipe. Two more: whoever is still waiting for an answer has got it, or not.
        while lines[-1]["seconds"] - lines[first - 1]["seconds"] < taken + 2:
            lines.append(json.loads(load.stdout.readline()))
        return {**lines[-1], "phase": name, "seconds": taken, "full queues": overflows(node),
                "longest ms": max(line["lately"] for line in lines[first:])}

    few = arguments.replicas // 2
    try:
        phases = [
            phase("rolling update", lambda: node.deploy(arguments.replicas, "2"), arguments.replicas),
            phase("scale-down", lambda: node.ctl("scale", "deployment/web", "--replicas", str(few)), few),
            phase("eviction", lambda: evict(node, max(1, few // 2)), few),
        ]
    finally:
        rest = load.communicate()[0].splitlines()
    last = json.loads(rest[-1]) if rest else lines[-1]
    rate = last["asked"] / last["seconds"]
    dropped = {name: count - before[name] for name, count in conntrack(node).items() if count != before[name]}
    results.values["load"] = {"phases": phases, "rate": rate, "kernel": dropped, **last}
    print(f"\n{last['asked']} requests, {rate:.0f} a second of {arguments.rate} wanted, by the Service's address; "
          f"{last['missed']} were left out because the generator was not given the processor (for at most "
          f"{last['absence']:.0f} ms), {last['held']} because 1,000 were under way; the longest took "
          f"{last['longest']:.0f} ms\n\n| while | seconds | requests | failed | longest, ms | full queues of pods |\n"
          "| --- | --- | --- | --- | --- | --- |")
    asked, failed = lines[0]["asked"], lines[0]["failed"]
    for one in phases:
        print(f"| {one['phase']} | {one['seconds']:.1f} | {one['asked'] - asked} | {one['failed'] - failed} "
              f"| {one['longest ms']:.0f} | {one['full queues']} |")
        asked, failed = one["asked"], one["failed"]
    print(f"\nfailed: {last['failed']}: {results.bar('requests under load', last['failed'], BARS['failed'])}")
    print(f"rate: {rate / arguments.rate:.2f} of the wanted one: "
          f"{results.floor('rate of requests', rate / arguments.rate, BARS['rate'])}")
    for why, times in sorted(last["causes"].items(), key=lambda item: -item[1]):
        print(f"- {times} times: {why}")
    for one in last["reasons"]:
        print(f"  - {one}")
    if dropped:
        print(f"connection tracking meanwhile: {dropped}")


# What connection tracking counts of packets that it could not serve (nf_conntrack's seq file, in hexadecimal).
LOST = ("insert_failed", "drop", "early_drop")


def conntrack(node):
    lines = node.lab.run("cat", "/proc/net/stat/nf_conntrack", check=False)[0].splitlines()
    names = lines[0].split() if lines else []
    rows = [dict(zip(names, line.split())) for line in lines[1:]]
    return {name: sum(int(row.get(name, "0"), 16) for row in rows) for name in LOST}


def overflows(node):
    """Connections that pods which are there now have refused because their programs' queues were full."""
    total = 0
    for pod in node.pods():
        netns = node.lab.path / "run/netns" / pod["metadata"]["uid"]
        text = node.lab.run("nsenter", f"--net={netns}", "cat", "/proc/net/netstat", check=False)[0]
        rows = [line.split() for line in text.splitlines() if line.startswith("TcpExt:")]
        if len(rows) == 2:
            total += int(dict(zip(*rows)).get("ListenOverflows", 0))
    return total


def ready(pod):
    statuses = pod["status"].get("containerStatuses", [])
    return not pod["metadata"].get("deletionTimestamp") and any(s["ready"] for s in statuses)


def reached(node, address):
    try:
        node.lab.connect((address, 80)).close()
        return True
    except OSError:
        return False


def evict(node, count):
    names = [pod["metadata"]["name"] for pod in node.pods()][:count]
    for name in names:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
        status, answer = node.api("POST", f"/api/v1/namespaces/default/pods/{name}/eviction", body)
        if status >= 300:
            raise RuntimeError(f"evict {name}: {answer}")
    until(lambda: not {pod["metadata"]["name"] for pod in node.pods()} & set(names), "the evicted pods to go")


# Memory first: what an allocator keeps of a hundred pods would hide what a pod costs.
PARTS = {"memory": memory, "start": start_up, "many": many, "idle": idle, "back": back, "load": under_load}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--idle", type=int, default=60)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("run.py: needs root, for namespaces")
    # Ended from outside, it cleans up all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    results = Results()
    node = Berth(arguments.bin_dir.resolve())
    try:
        for name, part in PARTS.items():
            if name in arguments.parts:
                part(node, arguments, results)
    except BaseException:
        say(node.lab.log())
        raise
    finally:
        node.close()
    results.values["missed"] = results.missed
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results.values, indent=1))
        say(f"the numbers are in {arguments.out}")
    if results.missed:
        print(f"\nmissed: {', '.join(results.missed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
