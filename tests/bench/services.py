#!/usr/bin/env python3
"""What the way through a Service's address costs, beside the way straight to its pod.

usage: services.py BIN_DIR PLUGIN_DIR

Runs a node in a network namespace of its own, a pod with the example application, and in the pod's network an iperf3
server. A client on the host and one in another pod's network measure throughput (iperf3) and new connections a second
(wrk, one request a connection), straight to the pod and by the Service's address, one after the other, with 1 and with
1,000 Services. Prints medians and ratios. ROUNDS (5), SECONDS (3) and SERVICES (1000) change the amount.
"""
import base64
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS", "3"))
SERVICES = int(os.environ.get("SERVICES", "1000"))
HTTP, STREAM = 8080, 5201


def sh(line):
    return subprocess.run(["sh", "-ec", line], check=True, capture_output=True, text=True).stdout


def until(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"waited in vain for {what}")


def accepts(place):
    try:
        socket.create_connection(place, 1).close()
        return True
    except OSError:
        return False


class Node:
    def __init__(self, programs, plugins, directory):
        self.programs, self.directory = programs, directory
        (directory / "net.d").mkdir()
        command = [programs / "berthd", "--data-dir", directory / "data", "--run-dir", directory / "run",
                   "--listen", "127.0.0.1:6443", "--runtime", programs / "berth", "--monitor", programs / "berth-monitor",
                   "--cni-bin-dir", plugins, "--cni-conf-dir", directory / "net.d", "--node-name", "bench",
                   "--cgroup-parent", directory.name, "--image-gc-high-threshold", "100"]
        log = open(directory / "log", "w")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until("berthd", lambda: "berthd is ready" in (directory / "log").read_text())
        self.environment = dict(os.environ, KUBECONFIG=str(directory / "data/admin.kubeconfig"))
        config = json.loads((directory / "data/admin.kubeconfig").read_text())
        user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
        files = {}
        for name, text in [("crt", user["client-certificate-data"]), ("key", user["client-key-data"]),
                           ("ca", cluster["certificate-authority-data"])]:
            files[name] = directory / name
            files[name].write_bytes(base64.b64decode(text))
        tls = ssl.create_default_context(cafile=files["ca"])
        tls.load_cert_chain(files["crt"], files["key"])
        self.api = http.client.HTTPSConnection("127.0.0.1", 6443, context=tls)

    def ctl(self, *arguments):
        return subprocess.run([self.programs / "berthctl", *arguments], check=True, capture_output=True, text=True,
                              env=self.environment).stdout

    def call(self, method, path, body=None):
        self.api.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
        answer = self.api.getresponse()
        text = answer.read()
        # The measurements are longer than an idle connection is kept.
        self.api.close()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:500]}")
        return json.loads(text)

    def create(self, kind, one):
        return self.call("POST", f"/api/v1/namespaces/default/{kind}", one)

    def pod(self, name, command):
        container = {"name": "c", "image": "bench:1", "command": command}
        self.create("pods", {"apiVersion": "v1", "kind": "Pod",
                             "metadata": {"name": name, "labels": {"app": name}},
                             "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
        found = until(f"pod {name}", lambda: self.ready(name))
        network = next((self.directory / "run/netns").glob(f"*{found['metadata']['uid']}*"))
        return found["status"]["podIP"], str(network)

    def ready(self, name):
        pod = self.call("GET", f"/api/v1/namespaces/default/pods/{name}")
        conditions = pod.get("status", {}).get("conditions", [])
        return pod if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else None

    def service(self, name, selector=None):
        spec = {"ports": [{"name": "http", "port": HTTP}, {"name": "stream", "port": STREAM}]}
        if selector:
            spec["selector"] = {"app": selector}
        made = self.create("services", {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
        return made["spec"]["clusterIP"]

    def stop(self):
        self.api.close()
        self.call("DELETE", "/api/v1/namespaces/default/pods", {"gracePeriodSeconds": 1})
        until("the pods to go", lambda: not self.call("GET", "/api/v1/namespaces/default/pods")["items"])
        self.process.terminate()
        self.process.wait()


def inside(network, command):
    prefix = ["nsenter", f"--net={network}"] if network else []
    return subprocess.run(prefix + command, check=True, capture_output=True, text=True).stdout


def throughput(network, address):
    """Gbit/s"""
    answer = json.loads(inside(network, ["iperf3", "-c", address, "-p", str(STREAM), "-t", str(SECONDS), "-J"]))
    return answer["end"]["sum_received"]["bits_per_second"] / 1e9


def connections(network, address):
    """connections a second"""
    text = inside(network, ["wrk", "-t", "1", "-c", "16", "-d", f"{SECONDS}s", "-H", "Connection: close",
                            f"http://{address}:{HTTP}/"])
    failed = re.search(r"Socket errors: (.*)", text)
    if failed and re.search(r"connect [1-9]|timeout [1-9]", failed.group(1)):
        raise SystemExit(f"connections failed: {failed.group(1)}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))


def measure(label, clients):
    for name, network, direct, service in clients:
        for what, unit, how in [("throughput", "Gbit/s", throughput), ("connections", "1/s", connections)]:
            samples = {"direct": [], "service": []}
            how(network, direct)
            for number in range(ROUNDS):
                order = [("direct", direct), ("service", service)]
                # Whatever warms up or wears out hits both.
                for way, address in order if number % 2 == 0 else reversed(order):
                    samples[way].append(how(network, address))
            ratios = [s / d for d, s in zip(samples["direct"], samples["service"])]
            medians = {way: statistics.median(values) for way, values in samples.items()}
            print(f"| {label} | {name} | {what} | {medians['direct']:.2f} {unit} | {medians['service']:.2f} {unit} "
                  f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |", flush=True)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    if not os.environ.get("BERTH_BENCH_INSIDE"):
        os.environ["BERTH_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    programs, plugins = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    # A way out, as a host has one.
    sh("ip link set lo up; ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up; "
       "ip link set up1 up; ip route add default via 192.0.2.2")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="berth-bench-"))
    node, servers = None, []
    try:
        node = Node(programs, plugins, directory)
        root = directory / "root"
        (root / "bin").mkdir(parents=True)
        shutil.copy(programs / "user-service", root / "bin/user-service")
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        node.ctl("image", "import", "--root", "--name", "bench:1", str(root))
        _, other = node.pod("client", ["/bin/busybox", "sleep", "100000"])
        # Each client has a server of its own: both may come from one address of the host, and a server that has closed
        # a connection from there takes none with an older time stamp for a minute.
        clients = []
        for name, namespace in [("the host", None), ("another pod", other)]:
            app = f"server-{len(clients)}"
            address, network = node.pod(app, ["/bin/user-service"])
            servers.append(subprocess.Popen(["nsenter", f"--net={network}", "iperf3", "-s", "-p", str(STREAM)],
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            service = node.service(app, app)
            for place in [(service, HTTP), (address, STREAM), (service, STREAM)]:
                until(f"{place}", lambda: accepts(place))
            clients.append((name, namespace, address, service))
        print("| Services | client | | straight | by the Service | ratio (median of pairs, range) |\n|---|---|---|---|---|---|")
        measure("1 for each", clients)
        for number in range(2, SERVICES):
            node.service(f"other-{number}", "server-0")
        count = "nft list map inet berth-services addresses | grep -o 'jump service' | wc -l" if shutil.which("nft") else "echo 0"
        time.sleep(2)
        print(f"(elements of the map, by nft: {sh(count).strip()})", file=sys.stderr)
        measure(str(SERVICES), clients)
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        if node:
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)


main()
