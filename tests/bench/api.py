#!/usr/bin/env python3
"""What the API server of berthd needs, with 1,000 pods stored.

usage: api.py BIN_DIR

Prints the time of a GET and of a status PATCH (median and 99th percentile), the time until 1,000 watchers have heard
of a change, what a list of all pods takes in time and memory, and what an idle berthd holds and writes.
"""
import base64
import http.client
import json
import os
import pathlib
import select
import socket
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

PODS = int(os.environ.get("PODS", "1000"))
WATCHERS = int(os.environ.get("WATCHERS", "1000"))
REQUESTS = int(os.environ.get("REQUESTS", "2000"))
IDLE = float(os.environ.get("IDLE", "10"))


def pod(number, version):
    """A pod as a Deployment makes it, on a node that is not this one: nobody runs it."""
    name = f"web-6d4cf56db6-{number:05}"
    container = {
        "name": "web", "image": "registry/web:1", "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 8080, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "16Mi"}},
        "env": [{"name": f"SETTING_{n}", "value": "some text"} for n in range(10)],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    }
    conditions = [{"type": t, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z"}
                  for t in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": str(uuid.uuid4()), "resourceVersion": str(version),
                     "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"}},
        "spec": {"containers": [container], "nodeName": "elsewhere", "restartPolicy": "Always",
                 "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
                 "serviceAccountName": "default", "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.88.0.2", "conditions": conditions,
                   "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable"},
    }


def fill(path):
    """Writes the pods into the store's file, as berthd has laid it out."""
    database = sqlite3.connect(path)
    version = database.execute("SELECT value FROM counters WHERE name = 'version'").fetchone()[0]
    for number in range(PODS):
        version += 1
        one = pod(number, version)
        database.execute("INSERT INTO objects (kind, namespace, name, uid, version, json) VALUES ('pods', ?, ?, ?, ?, ?)",
                         ("default", one["metadata"]["name"], one["metadata"]["uid"], version,
                          json.dumps(one, separators=(",", ":"))))
    database.execute("UPDATE counters SET value = ? WHERE name = 'version'", (version,))
    database.commit()
    database.close()


class Daemon:
    def __init__(self, programs, directory):
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [programs / "berthd", "--data-dir", directory / "data", "--run-dir", directory / "run",
                        "--listen", f"127.0.0.1:{self.port}", "--runtime", programs / "berth",
                        "--monitor", programs / "berth-monitor", "--node-name", "bench"]
        self.process = None

    def start(self):
        log = open(self.directory / "log", "w")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        for _ in range(1200):
            if "berthd is ready" in (self.directory / "log").read_text():
                break
            time.sleep(0.05)
        config = json.loads((self.directory / "data/admin.kubeconfig").read_text())
        user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
        files = {}
        for name, text in [("crt", user["client-certificate-data"]), ("key", user["client-key-data"]),
                           ("ca", cluster["certificate-authority-data"])]:
            files[name] = self.directory / name
            files[name].write_bytes(base64.b64decode(text))
        self.tls = ssl.create_default_context(cafile=files["ca"])
        self.tls.load_cert_chain(files["crt"], files["key"])

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def connect(self):
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def proc(self, file, field):
        for line in pathlib.Path(f"/proc/{self.process.pid}/{file}").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        return 0


def timed(connection, count, make):
    times = []
    for number in range(count):
        method, path, body, headers = make(number)
        begin = time.perf_counter()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - begin) * 1000)
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status}")
    return times


def show(title, times, bar):
    times = sorted(times)
    print(f"| {title} | {statistics.median(times):.2f} ms | {times[int(len(times) * 0.99) - 1]:.2f} ms | {bar} |")


def name(number):
    return f"web-6d4cf56db6-{number % PODS:05}"


def watch(daemon):
    """A watch that has been answered, whose first event is still to come."""
    connection = daemon.tls.wrap_socket(socket.create_connection(("127.0.0.1", daemon.port)), server_hostname="127.0.0.1")
    path = "/api/v1/namespaces/default/pods?watch=1&fieldSelector=metadata.namespace%3Ddefault&resourceVersion=" + daemon.version
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    connection.setblocking(False)
    return connection


def watchers(daemon):
    """Milliseconds until each of the watchers has read a whole event. The client reads all of them on one thread."""
    poll, waiting, heard = select.epoll(), {}, []
    for _ in range(WATCHERS):
        connection = watch(daemon)
        waiting[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    everyone = list(waiting.values())
    connection = daemon.connect()
    begin = time.perf_counter()
    connection.request("PATCH", f"/api/v1/namespaces/default/pods/{name(7)}/status",
                       json.dumps({"status": {"message": f"watched {begin}"}}),
                       {"Content-Type": "application/merge-patch+json"})
    while waiting:
        for number, _ in poll.poll():
            if number not in waiting:
                continue
            try:
                # A chunk of the answer ends behind the line's end.
                if waiting[number].recv(65536).endswith(b"\n\r\n"):
                    heard.append((time.perf_counter() - begin) * 1000)
                    del waiting[number]
            except ssl.SSLWantReadError:
                pass
    connection.getresponse().read()
    for one in everyone:
        one.close()
    return heard


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if "BENCH_API_INSIDE" not in os.environ:
        # In a network of its own: berthd sets up rules and links.
        inside = ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
        os.environ["BENCH_API_INSIDE"] = "yes"
        os.execvp("unshare", [*inside, sys.executable, *sys.argv])
    programs = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="berth-bench-api-") as directory:
        directory = pathlib.Path(directory)
        daemon = Daemon(programs, directory)
        try:
            daemon.start()
            time.sleep(1)
            daemon.stop()
            fill(directory / "data/objects.db")
            daemon.start()
            time.sleep(2)
            measure(daemon)
        finally:
            daemon.stop()


def measure(daemon):
    before = daemon.proc("io", "write_bytes")
    ticks = sum(int(n) for n in pathlib.Path(f"/proc/{daemon.process.pid}/stat").read_text().split()[13:15])
    time.sleep(IDLE)
    used = sum(int(n) for n in pathlib.Path(f"/proc/{daemon.process.pid}/stat").read_text().split()[13:15]) - ticks
    idle = (daemon.proc("smaps_rollup", "Pss"), daemon.proc("io", "write_bytes") - before)
    connection = daemon.connect()
    print(f"{PODS} pods stored, {WATCHERS} watchers, {REQUESTS} requests each, one after the other\n")
    print("| what | median | p99 | bar |\n| --- | --- | --- | --- |")
    get = timed(connection, REQUESTS, lambda n: ("GET", f"/api/v1/namespaces/default/pods/{name(n)}", None, {}))
    show("GET of a pod", get, "2 ms")
    patch = timed(connection, REQUESTS, lambda n: (
        "PATCH", f"/api/v1/namespaces/default/pods/{name(n)}/status", json.dumps({"status": {"message": f"m{n}"}}),
        {"Content-Type": "application/merge-patch+json"}))
    show("PATCH of a pod's status", patch, "5 ms")
    resident = daemon.proc("status", "VmHWM")
    lists = timed(connection, 20, lambda n: ("GET", "/api/v1/pods", None, {}))
    show("list of all pods", lists, "")
    grown = daemon.proc("status", "VmHWM") - resident
    connection.request("GET", "/api/v1/namespaces/default/pods?limit=1")
    daemon.version = json.loads(connection.getresponse().read())["metadata"]["resourceVersion"]
    show("watchers have heard of a change", watchers(daemon), "100 ms")
    print(f"\nlists raised the peak of memory by {grown} KiB; idle for {IDLE:.0f} s: {idle[0]} KiB PSS, "
          f"{idle[1]} bytes written, {used * 10} ms of processor")


main()
