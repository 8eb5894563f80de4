#!/usr/bin/env python3
"""Does anything grow? Rollouts, crashes, scaling, jobs, Services and load against one berthd, for as long as wanted.

usage: soak.py BIN_DIR [--minutes N] [--rate N] [--out FILE]

After each cycle of changes the node is brought back to what it was, and what it holds is counted: memory, descriptors,
threads, packet filter rules, links, mounts, leases, cgroups, files of pods. What is counted must be the same at the end
as after the first cycle; memory may have grown by no more than the objects that are stored (Events are kept for an
hour) and a tolerance. Prints a table and a verdict; ends with 1 if anything has grown. Cleans up after itself.
"""
import argparse, itertools, json, os, pathlib, random, signal, statistics, subprocess, sys, time

# No folders of compiled files beside the sources.
sys.dont_write_bytecode = True

from berth import APPLICATION, Berth, Connection, deployment, service
from lab import alive, host_pid, pss, say, until

REPLICAS = 4
# Memory: KiB that may come and go with what happened last, and the part of it that may.
TOLERANCE, PART = 2048, 0.05
# Changes of a kind that berthd remembers at most.
HISTORY = 1100


def pod(name, **more):
    spec = deployment(1, name=name)["spec"]["template"]["spec"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {**spec, "terminationGracePeriodSeconds": 2, **more}}


def job(name, completions, path="/user-service"):
    container = {"name": "c", "image": f"{APPLICATION}:1", "imagePullPolicy": "Never", "command": [path],
                 # Ends at once: it is no port.
                 "env": [{"name": "PORT", "value": "none"}]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"completions": completions, "parallelism": completions, "backoffLimit": 0, "template": template}}


class Soak:
    def __init__(self, node, seed):
        self.node, self.random, self.numbers = node, random.Random(seed), itertools.count(2)
        self.actions = [self.rollout, self.crash, self.scale, self.jobs, self.services, self.own_users, self.volumes,
                        self.missing_image, self.failing_probe, self.images, self.readers, self.evict]
        self.done = {action.__name__: 0 for action in self.actions}

    def prepare(self):
        for name in ("web", "other"):
            self.node.deploy(REPLICAS, name=name)
            self.node.apply(service(name))

    def fill(self):
        """Fills the history that is kept of each kind: it is bounded, but would look like a leak until it is full."""
        lists = {path: self.object(path)["items"] for path in STORED}
        connection = Connection(self.node)
        for path, items in lists.items():
            # Not the node's own: endpoints on its loopback are nobody else's to write.
            mine = [item["metadata"] for item in items if item["metadata"]["name"].startswith(("web", "other"))]
            for number in range(HISTORY if items else 0):
                item = mine[0] if mine else items[0]["metadata"]
                folder, kind = path.rsplit("/", 1)
                place = f"{folder}/namespaces/{item['namespace']}/{kind}/{item['name']}"
                connection.request("PATCH", place, json.dumps({"metadata": {"annotations": {"n": str(number)}}}),
                                   {"Content-Type": "application/merge-patch+json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status >= 300:
                    raise RuntimeError(f"PATCH {place}: {answer.status}")
        connection.close()

    def cycle(self):
        for action in self.random.sample(self.actions, len(self.actions)):
            action()
            self.done[action.__name__] += 1

    def rollout(self):
        self.node.deploy(REPLICAS, str(next(self.numbers)))
        self.settled("web")

    def crash(self):
        """One container killed from outside, and one whose program ends."""
        for name in ("web", "other"):
            victim = self.random.choice(self.node.pods(f"app={name}"))
            process = host_pid(self.node.lab, self.node.run_of(victim)[1])
            os.kill(process, signal.SIGKILL)
            until(lambda: not alive(process), "the process to be gone")
            # The pod goes: in a long run its back-off would be all that there is to see.
            self.node.ctl("delete", "pod", victim["metadata"]["name"])
            self.settled(name)

    def scale(self):
        for count in (REPLICAS + 3, 0, REPLICAS):
            self.node.ctl("scale", "deployment/other", "--replicas", str(count))
            self.settled("other", count)

    def jobs(self):
        name = f"job-{next(self.numbers)}"
        self.node.apply(job(name, 3))
        until(lambda: any(c["type"] in ("Failed", "Complete") and c["status"] == "True"
                          for c in self.object(f"/apis/batch/v1/namespaces/default/jobs/{name}")["status"].get("conditions", [])),
              "the job to end")
        self.node.ctl("delete", "job", name)

    def services(self):
        name = f"service-{next(self.numbers)}"
        one = service(name)
        one["spec"]["type"] = "NodePort"
        one["spec"]["selector"] = {"app": "other"}
        self.node.apply(one)
        address = self.object(f"/api/v1/namespaces/default/services/{name}")["spec"]["clusterIP"]
        until(lambda: self.reached(address), "the Service")
        self.node.ctl("delete", "service", name)

    def own_users(self):
        self.alone(pod(f"users-{next(self.numbers)}", hostUsers=False))

    def volumes(self):
        name = f"volumes-{next(self.numbers)}"
        self.node.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}},
                        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"a": "1"}})
        one = pod(name)
        kinds = [{"emptyDir": {}}, {"emptyDir": {"medium": "Memory"}}, {"configMap": {"name": name}},
                 {"secret": {"secretName": name}}]
        one["spec"]["volumes"] = [{"name": f"v{n}", **kind} for n, kind in enumerate(kinds)]
        one["spec"]["containers"][0]["volumeMounts"] = [
            {"name": f"v{n}", "mountPath": f"/v{n}", **({"subPath": "a"} if n == 2 else {})} for n in range(len(kinds))]
        self.alone(one)
        self.node.ctl("delete", "configmap", name)
        self.node.ctl("delete", "secret", name)

    def missing_image(self):
        """A pod that cannot run: its image is nowhere."""
        one = pod(f"missing-{next(self.numbers)}")
        one["spec"]["containers"][0]["image"] = "nowhere:1"
        self.node.apply(one)
        until(lambda: "waiting" in json.dumps(self.pod_of(one)["status"]), "the pod to wait")
        self.gone(one)

    def failing_probe(self):
        """A container that its liveness probe ends."""
        one = pod(f"probe-{next(self.numbers)}")
        one["spec"]["containers"][0]["livenessProbe"] = {
            "httpGet": {"path": "/none", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}
        self.node.apply(one)
        until(lambda: any(s["restartCount"] for s in self.pod_of(one)["status"].get("containerStatuses", [])),
              "the probe to end the container")
        self.gone(one)

    def images(self):
        name = f"passing:{next(self.numbers)}"
        self.node.ctl("image", "import", self.node.lab.path / "root", "--name", name, "--label", f"n={name}")
        self.node.ctl("image", "rm", name)

    def readers(self):
        for pod_ in self.node.pods()[:2]:
            self.node.ctl("logs", pod_["metadata"]["name"])
        self.node.ctl("get", "pods,services,deployments,events", "-A")
        self.node.ctl("describe", "pods")

    def evict(self):
        name = self.node.pods("app=other")[0]["metadata"]["name"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
        self.node.api("POST", f"/api/v1/namespaces/default/pods/{name}/eviction", body)
        until(lambda: name not in {p["metadata"]["name"] for p in self.node.pods("app=other")}, "the pod to go")
        self.settled("other")

    def object(self, path):
        answer = self.node.api("GET", path)[1]
        answer.setdefault("status", {})
        return answer

    def pod_of(self, one):
        return self.object(f"/api/v1/namespaces/default/pods/{one['metadata']['name']}")

    def alone(self, one):
        self.node.apply(one)
        until(lambda: any(s["ready"] for s in self.pod_of(one)["status"].get("containerStatuses", [])),
              f"{one['metadata']['name']} to be ready")
        self.gone(one)

    def gone(self, one):
        self.node.ctl("delete", "pod", one["metadata"]["name"])
        until(lambda: not self.node.pods(f"app={one['metadata']['name']}"), "the pod to be gone")

    def reached(self, address):
        try:
            self.node.lab.connect((address, 80)).close()
            return True
        except OSError:
            return False

    def settled(self, name, count=REPLICAS):
        """All pods are there and ready, and no others."""
        def there():
            pods = self.node.pods(f"app={name}")
            return len(pods) == count and all(
                not p["metadata"].get("deletionTimestamp") and any(s["ready"] for s in p["status"].get("containerStatuses", []))
                for p in pods)
        until(there, f"{count} pods of {name}")

    def quiet(self):
        for name in ("web", "other"):
            self.settled(name)
        until(lambda: len(self.object("/api/v1/pods")["items"]) == 2 * REPLICAS, "nothing else to be there")


# Lists of all objects that come and go.
STORED = ("/api/v1/events", "/api/v1/pods", "/api/v1/services", "/api/v1/endpoints", "/api/v1/configmaps",
          "/api/v1/secrets", "/apis/apps/v1/deployments", "/apis/apps/v1/replicasets", "/apis/batch/v1/jobs",
          "/apis/discovery.k8s.io/v1/endpointslices")


def count(node):
    """What the node holds."""
    lab, process = node.lab, node.process()
    files = lambda *folders: sum(len(list((lab.path / folder).iterdir())) for folder in folders if (lab.path / folder).exists())
    monitors = node.monitors()
    stored = [len(json.dumps(item, separators=(",", ":"))) for path in STORED for item in node.api("GET", path)[1]["items"]]
    memory = {line.split(":")[0]: int(line.split()[1]) for line in (process / "status").read_text().splitlines()
              if line.startswith(("RssAnon", "Threads"))}
    return {
        "berthd PSS KiB": pss(process),
        "berthd anonymous KiB": memory["RssAnon"],
        "monitors' PSS KiB": round(statistics.mean(pss(monitor) for monitor in monitors)),
        "stored KiB": sum(stored) // 1024,
        "stored objects": len(stored),
        "descriptors": len(list((process / "fd").iterdir())),
        "monitors": len(monitors),
        "monitors' descriptors": sum(len(list((monitor / "fd").iterdir())) for monitor in monitors),
        "processes": len(lab.processes()),
        "rules": len(lab.run("nft", "list", "ruleset")[0].splitlines()),
        "links": len(lab.run("ip", "-o", "link")[0].splitlines()),
        "mounts": len((process / "mountinfo").read_text().splitlines()),
        "leases": files("data/cni/networks/berth", "data/cni/results"),
        # Of cgroup v1 one in each hierarchy, of v2 one.
        "cgroups": sum(len(folders) for place in (f"*/{lab.name}", lab.name)
                       for root in pathlib.Path("/sys/fs/cgroup").glob(place) for _, folders, _ in os.walk(root)),
        "state folders": files("run/pods", "run/netns", "run/runtime", "run/ids", "data/pods", "data/logs"),
        "image files": files("data/images/tmp", "data/images/partial", "data/images/layers", "data/images/l",
                             "data/images/blobs/sha256"),
    }


# What may be different by what happens to be under way, and by how much: connections that are about to be closed.
SLACK = {"descriptors": 4, "processes": 2}
MEMORY = ("berthd PSS KiB", "berthd anonymous KiB", "monitors' PSS KiB")
INFORMATION = ("stored KiB", "stored objects")


def verdict(samples):
    """Rows of the table, and what has grown."""
    first, last = samples[0], samples[-1]
    third = max(1, len(samples) // 3)
    begin, end = samples[:third], samples[-third:]
    rows, grown = [], []
    for name in first:
        values = [sample[name] for sample in samples]
        if name in MEMORY:
            growth = statistics.median(s[name] for s in end) - statistics.median(s[name] for s in begin)
            stored = 0
            if name.startswith("berthd"):
                stored = statistics.median(s["stored KiB"] for s in end) - statistics.median(s["stored KiB"] for s in begin)
            # Each stored object is held as text, with its key and its place in the indexes.
            bound = TOLERANCE * (1 if name.startswith("berthd") else 0.1) + PART * first[name] + 2.5 * max(0, stored)
            flat = growth <= bound
            what = f"{growth:+.0f} (at most {bound:+.0f})"
        elif name in INFORMATION:
            flat, what = True, f"{last[name] - first[name]:+}"
        else:
            flat = last[name] <= first[name] + SLACK.get(name, 0)
            what = f"{last[name] - first[name]:+}"
        if not flat:
            grown.append(name)
        rows.append((name, first[name], max(values), last[name], what, "flat" if flat else "GROWS"))
    return rows, grown


def start_load(node, rate):
    address = node.api("GET", "/api/v1/namespaces/default/services/web")[1]["spec"]["clusterIP"]
    script = pathlib.Path(__file__).with_name("load.py")
    return subprocess.Popen(node.lab.command([sys.executable, script, address, 80, rate]), stdin=subprocess.PIPE,
                            stdout=open(node.lab.path / "load", "w"), text=True)


def end_load(node, load):
    load.communicate()
    return json.loads((node.lab.path / "load").read_text().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    if os.geteuid():
        sys.exit("soak.py: needs root, for namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    node = Berth(arguments.bin_dir.resolve(), "soak")
    soak, samples, load = Soak(node, arguments.seed), [], None
    try:
        soak.prepare()
        load = start_load(node, arguments.rate)
        end = time.monotonic() + arguments.minutes * 60
        # The first two warm everything up: what they leave is what there is to compare with.
        for number in itertools.count():
            soak.cycle()
            if number == 0:
                soak.fill()
            soak.quiet()
            time.sleep(2)
            sample = count(node)
            say(f"cycle {number}: {json.dumps(sample)}")
            if number >= 1:
                samples.append(sample)
            if time.monotonic() > end and len(samples) >= 3:
                break
        asked = end_load(node, load)
    except BaseException:
        say(node.lab.log())
        raise
    finally:
        if load and load.poll() is None:
            load.communicate()
        node.close()
    report(arguments, soak, samples, asked)


def report(arguments, soak, samples, asked):
    rows, grown = verdict(samples)
    cycles = ", ".join(f"{count_} {name.replace('_', ' ')}" for name, count_ in soak.done.items())
    causes = ", ".join(f"{times} times {why}" for why, times in asked["causes"].items())
    print(f"{arguments.minutes:g} minutes: {cycles}; {asked['asked']} requests, {asked['failed']} failed, for containers were "
          f"killed{f' ({causes})' if causes else ''}\n")
    print("| | first | most | last | change | |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"samples": samples, "load": asked, "grown": grown}, indent=1))
    print(f"\nverdict: {'flat' if not grown else 'grows: ' + ', '.join(grown)}")
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
