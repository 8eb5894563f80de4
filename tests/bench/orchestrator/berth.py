"""Berth's node in a lab, driven by berthctl and by its API."""
import base64, http.client, json, pathlib, ssl, time

from lab import Lab, seconds, until

APPLICATION = "user-service"


class Connection(http.client.HTTPSConnection):
    """HTTPS by a socket that was opened in the lab."""

    def __init__(self, node):
        super().__init__("127.0.0.1", node.port, context=node.tls)
        self.node = node

    def connect(self):
        plain = self.node.lab.connect(("127.0.0.1", self.node.port))
        self.sock = self.node.tls.wrap_socket(plain, server_hostname="127.0.0.1")


class Berth:
    name = "Berth"
    port = 6443

    def __init__(self, programs, label="berth", arguments=()):
        self.programs, self.lab, self.arguments = programs, Lab(label), arguments
        self.command = programs / "berthctl"
        plugins = self.lab.path / "cni"
        plugins.mkdir()
        for plugin in ("bridge", "host-local", "loopback", "portmap", "firewall"):
            (plugins / plugin).symlink_to(programs / "cni-plugins")
        self.start()
        root = self.lab.path / "root"
        root.mkdir()
        (root / APPLICATION).write_bytes((programs / APPLICATION).read_bytes())
        (root / APPLICATION).chmod(0o755)
        self.ctl("image", "import", root, "--name", f"{APPLICATION}:1", "--entrypoint", f"/{APPLICATION}", "--env",
                 "VERSION=1")

    def start(self):
        path = self.lab.path
        offset = (path / "log").stat().st_size if (path / "log").exists() else 0
        self.lab.daemon(
            self.programs / "berthd", "--data-dir", path / "data", "--run-dir", path / "run", "--listen",
            f"127.0.0.1:{self.port}", "--runtime", self.programs / "berth", "--monitor",
            self.programs / "berth-monitor", "--cni-bin-dir", path / "cni", "--cni-conf-dir", path / "net.d",
            "--cgroup-parent", self.lab.name, "--node-name", "bench", *self.arguments)

        def ready():
            with open(path / "log", errors="replace") as log:
                log.seek(offset)
                return "berthd is ready" in log.read()

        until(ready, "berthd")
        config = json.loads((path / "data/admin.kubeconfig").read_text())
        user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
        for name, text in [("crt", user["client-certificate-data"]), ("key", user["client-key-data"]),
                           ("ca", cluster["certificate-authority-data"])]:
            (path / name).write_bytes(base64.b64decode(text))
        self.tls = ssl.create_default_context(cafile=path / "ca")
        self.tls.load_cert_chain(path / "crt", path / "key")
        self.pid = until(lambda: self.named("berthd"), "berthd's process")[0]

    def named(self, name):
        return sorted(pid for pid, comm in self.lab.processes().items() if comm == name[:15])

    def process(self):
        return self.lab.proc() / str(self.pid)

    def monitors(self):
        return [self.lab.proc() / str(pid) for pid in self.named("berth-monitor")]

    def ctl(self, *arguments, input=None, check=True):
        env = {"KUBECONFIG": str(self.lab.path / "data/admin.kubeconfig")}
        return self.lab.run(self.command, *arguments, env=env, input=input, check=check)

    def api(self, method, path, body=None):
        connection = Connection(self)
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None

    def apply(self, *objects):
        text = "\n---\n".join(json.dumps(one) for one in objects)
        return self.ctl("apply", "-f", "-", input=text.encode())[1]

    def pods(self, label="app=web"):
        _, answer = self.api("GET", f"/api/v1/namespaces/default/pods?labelSelector={label.replace('=', '%3D')}")
        return answer["items"]

    def deploy(self, replicas, version="1", name="web", probe=True):
        """Applies a Deployment and waits until it is available. Seconds, and seconds of processor."""
        cpu, begin = self.lab.cpu(), time.monotonic()
        client = self.apply(deployment(replicas, version, name, probe))
        client += self.ctl("rollout", "status", f"deployment/{name}", "--timeout", "300s")[1]
        return time.monotonic() - begin, self.lab.cpu() - cpu + client

    def remove(self, name="web"):
        self.ctl("delete", "deployment", name)
        until(lambda: not self.pods(f"app={name}"), "the pods to be gone")

    def run_of(self, pod):
        """The newest run of a pod's container: its number, and its process as the lab numbers it."""
        folder = self.lab.path / "run/pods" / pod["metadata"]["uid"] / "containers"
        runs = sorted(folder.glob("*/record.json"), key=lambda path: int(path.parent.name.rsplit("-", 1)[1]))
        record = json.loads(runs[-1].read_text())
        return int(runs[-1].parent.name.rsplit("-", 1)[1]), record["pid"]

    def used(self):
        """Seconds of processor of berthd with what it ran, and of all monitors."""
        return seconds(self.process()), sum(seconds(monitor) for monitor in self.monitors())

    def close(self):
        try:
            for kind in ("cronjobs", "jobs", "deployments", "pods"):
                self.ctl("delete", kind, "--all", "-A", "--grace-period", "1")
            until(lambda: not self.api("GET", "/api/v1/pods")[1]["items"], "all pods to be gone")
        finally:
            self.lab.close()


def deployment(replicas, version="1", name="web", probe=True, **more):
    container = {
        "name": "web", "image": f"{APPLICATION}:1", "imagePullPolicy": "Never", "ports": [{"containerPort": 8080}],
        "env": [{"name": "VERSION", "value": version}, {"name": "DATABASE_URL", "value": "x"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
    }
    if not probe:
        del container["readinessProbe"]
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **more}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}}


def service(name="web"):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}}
