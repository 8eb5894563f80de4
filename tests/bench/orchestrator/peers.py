"""What others run ten replicas with: podman kube play, and Docker's Swarm, each in a lab of its own."""
import contextlib, http.client, json, os, pathlib, shutil, time, urllib.parse

from berth import APPLICATION, deployment
from lab import ADDRESS, Failed, Lab, until

IMAGE = f"localhost/{APPLICATION}:1"


class Absent(Exception):
    """The peer cannot run here; the text is the reason."""


class Podman:
    name = "podman kube play"

    def __init__(self, archive):
        if not shutil.which("podman"):
            raise Absent("podman is not installed")
        self.lab, self.removed = Lab("podman"), []
        try:
            self.podman("load", "-i", archive)
        except Failed as error:
            self.lab.close()
            raise Absent(str(error)) from error

    def podman(self, *arguments, check=True):
        path = self.lab.path
        # crun does not know hybrid cgroups; runc is what Docker runs, too.
        return self.lab.run("podman", "--root", path / "storage", "--runroot", path / "runroot", "--tmpdir",
                            path / "tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime",
                            "runc", *arguments, check=check)

    def deploy(self, replicas, version="1"):
        # Podman runs one pod of a Deployment, whatever it asks for: a Pod each.
        template = deployment(1, version)["spec"]["template"]
        container = {key: value for key, value in template["spec"]["containers"][0].items()
                     # It would publish the ports on the host, all on the same one.
                     if key not in ("readinessProbe", "imagePullPolicy", "ports")}
        pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"web-{n}", "labels": {"app": "web"}},
                 "spec": {"containers": [{**container, "image": IMAGE, "name": "c"}]}} for n in range(replicas)]
        (self.lab.path / "pods.yaml").write_text("\n---\n".join(json.dumps(pod) for pod in pods))
        cpu, begin = self.lab.cpu(), time.monotonic()
        _, client = self.podman("kube", "play", self.lab.path / "pods.yaml")
        return time.monotonic() - begin, self.lab.cpu() - cpu + client

    def pods(self):
        return self.podman("pod", "ls", "--quiet", "--no-trunc")[0].split()

    def remove(self):
        self.removed += self.pods()

        def gone():
            # It may find a cgroup of conmon's busy, and says so.
            self.podman("pod", "rm", "--all", "--force", "--time", "0", check=False)
            return not self.pods()

        until(gone, "the pods to be gone", pause=0.2)

    def close(self):
        try:
            self.remove()
        finally:
            self.lab.close()
            # The cgroups that it found busy.
            for pod in self.removed:
                for place in pathlib.Path("/sys/fs/cgroup").glob(f"*/libpod_parent/{pod}"):
                    for folder, _, _ in os.walk(place, topdown=False):
                        with contextlib.suppress(OSError):
                            os.rmdir(folder)


class Swarm:
    name = "Docker Swarm"

    def __init__(self, archive):
        for program in ("dockerd", "docker"):
            if not shutil.which(program):
                raise Absent(f"{program} is not installed")
        self.lab = Lab("swarm")
        path = self.lab.path
        config = {"data-root": f"{path}/data", "exec-root": f"{path}/exec", "pidfile": f"{path}/docker.pid",
                  "hosts": [f"unix://{path}/d.sock"], "cgroup-parent": f"/{self.lab.name}",
                  "storage-driver": "overlay2"}
        (path / "daemon.json").write_text(json.dumps(config))
        daemon = self.lab.daemon("dockerd", "--config-file", path / "daemon.json")
        try:
            until(lambda: daemon.poll() is not None or self.answers(), "dockerd", 60)
            self.docker("load", "-i", archive)
            self.docker("swarm", "init", "--advertise-addr", ADDRESS)
        except (Failed, OSError, RuntimeError) as error:
            reason = f"{error} {self.lab.log()[-300:]}"
            self.lab.close()
            raise Absent(reason) from error

    def docker(self, *arguments):
        return self.lab.run("docker", *arguments,
                            env={"DOCKER_HOST": f"unix://{self.lab.path}/d.sock", "HOME": str(self.lab.path)})

    def get(self, path):
        connection = http.client.HTTPConnection("docker")
        connection.sock = self.lab.connect(self.lab.path / "d.sock")
        connection.request("GET", path)
        text = connection.getresponse().read()
        connection.close()
        return json.loads(text)

    def answers(self):
        try:
            return bool(self.get("/version"))
        except (OSError, ValueError, http.client.HTTPException):
            return False

    def running(self):
        wanted = urllib.parse.quote(json.dumps({"service": ["web"], "desired-state": ["running"]}))
        return sum(task["Status"]["State"] == "running" for task in self.get(f"/tasks?filters={wanted}"))

    def deploy(self, replicas, version="1"):
        cpu, begin = self.lab.cpu(), time.monotonic()
        _, client = self.docker("service", "create", "--quiet", "--detach", "--no-resolve-image", "--name", "web",
                                "--replicas", replicas, "--env", f"VERSION={version}", "--env", "DATABASE_URL=x", IMAGE)
        until(lambda: self.running() == replicas, "the tasks to run", pause=0.05)
        return time.monotonic() - begin, self.lab.cpu() - cpu + client

    def remove(self):
        self.docker("service", "rm", "web")
        until(lambda: not self.get("/containers/json?all=1"), "the containers to be gone", pause=0.1)

    def close(self):
        self.lab.close()
