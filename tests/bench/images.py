#!/usr/bin/env python3
"""Pull and unpack from a loopback registry: Berth against skopeo + umoci and against containerd.

usage: images.py BIN_DIR [--runs N] [--megabytes N] [--layers N]

BIN_DIR has berthd and berthctl. An image of 10 layers and 500 MB (half of it does not compress) is
made once a run of this script and put into Debian's docker-registry. Everything happens in private
network and mount namespaces: the script starts itself again by unshare. Each round runs every
program once, in turn, from an empty store; the disk is synced before each. Prints seconds until the
image can be used, and until it is on the disk as well (syncfs), berthd's peak memory, and what a
second image costs that shares all layers but one. Ends with 1 if a bar is missed.
"""
import argparse, gzip, hashlib, io, json, os, random, shutil, statistics, subprocess, sys, tarfile, tempfile, time
import socket

TIME_BAR, MEMORY_BAR = 0.6, 64 << 20


def layer(seed, size):
    """A layer's archive: files of 4 to 400 kB, every other one text."""
    noise, out = random.Random(seed), io.BytesIO()
    words = [bytes(noise.choices(b"abcdefghijklmnopqrstuvwxyz", k=noise.randint(2, 9))) for _ in range(5000)]
    with tarfile.open(fileobj=out, mode="w") as archive:
        done, number = 0, 0
        while done < size:
            length = min(noise.randint(4_000, 400_000), size - done)
            text = number % 2
            content = b" ".join(noise.choices(words, k=length // 6))[:length] if text else noise.randbytes(length)
            if number % 50 == 0:
                folder = tarfile.TarInfo(f"usr/share/l{seed}/d{number // 50}")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
            entry = tarfile.TarInfo(f"usr/share/l{seed}/d{number // 50}/f{number}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
            done, number = done + len(content), number + 1
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(folder, seeds, size, cache):
    """An OCI layout with one image, tagged 1."""
    blobs = os.path.join(folder, "blobs/sha256")
    os.makedirs(blobs)

    def put(data, kind):
        name = digest(data)
        with open(os.path.join(blobs, name[7:]), "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": name, "size": len(data)}

    layers, diff_ids = [], []
    for seed in seeds:
        if seed not in cache:
            plain = layer(seed, size)
            cache[seed] = (gzip.compress(plain, 6, mtime=0), digest(plain))
        layers.append(put(cache[seed][0], "layer.v1.tar+gzip"))
        diff_ids.append(cache[seed][1])
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = {"architecture": machine, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": put(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    with open(os.path.join(folder, "index.json"), "w") as file:
        json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
    with open(os.path.join(folder, "oci-layout"), "w") as file:
        file.write('{"imageLayoutVersion":"1.0.0"}')


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode:
        sys.exit(f"{command}: {done.stdout.decode()}")
    return done.stdout.decode()


def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    sys.exit(f"waited 30 s for {what}")


def listens(number):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", number)) == 0


def timed(work, folder):
    """Seconds until it is done, and until it is on the disk."""
    os.sync()
    start = time.monotonic()
    work()
    done = time.monotonic()
    run("sync", "-f", folder)
    return done - start, time.monotonic() - start


class Berth:
    name = "berth"

    def __init__(self, binaries, root, registry):
        self.binaries, self.root, self.registry = binaries, root, registry

    def start(self):
        data, address = f"{self.root}/berth/data", f"127.0.0.1:{port()}"
        self.log = open(f"{self.root}/berthd.log", "ab")
        self.daemon = subprocess.Popen(
            [f"{self.binaries}/berthd", "--data-dir", data, "--run-dir", f"{self.root}/berth/run", "--listen", address,
             "--cgroup-parent", f"berth-bench-{os.getpid()}", "--image-policy", f"{self.root}/none",
             "--registries-conf", f"{self.root}/none"], stdout=self.log, stderr=self.log)
        self.environment = dict(os.environ, KUBECONFIG=f"{data}/admin.kubeconfig")
        ready = [f"{self.binaries}/berthctl", "get", "namespace", "default"]
        until(lambda: subprocess.run(ready, env=self.environment, capture_output=True).returncode == 0, "berthd")
        # The peak so far is the start's (proc(5), clear_refs).
        with open(f"/proc/{self.daemon.pid}/clear_refs", "w") as file:
            file.write("5")

    def pull(self, image):
        run(f"{self.binaries}/berthctl", "image", "pull", "--quiet", f"{self.registry}/{image}", env=self.environment)

    def peak(self):
        with open(f"/proc/{self.daemon.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()
        shutil.rmtree(f"{self.root}/berth")


class SkopeoUmoci:
    name = "skopeo copy + umoci unpack"

    def __init__(self, root, registry):
        self.root, self.registry, self.count = f"{root}/umoci", registry, 0

    def start(self):
        os.makedirs(self.root)
        with open(f"{self.root}/policy.json", "w") as file:
            file.write('{"default":[{"type":"insecureAcceptAnything"}]}')

    def pull(self, image):
        self.count += 1
        run("skopeo", "--policy", f"{self.root}/policy.json", "copy", "--src-tls-verify=false",
            f"docker://{self.registry}/{image}", f"oci:{self.root}/store:{self.count}")
        run("umoci", "unpack", "--image", f"{self.root}/store:{self.count}", f"{self.root}/bundle{self.count}")

    def stop(self):
        shutil.rmtree(self.root)


class Containerd:
    name = "ctr image pull"

    def __init__(self, root, registry):
        self.root, self.registry = f"{root}/containerd", registry

    def start(self):
        os.makedirs(self.root)
        with open(f"{self.root}/config.toml", "w") as file:
            file.write(f'version = 2\nroot = "{self.root}/root"\nstate = "{self.root}/state"\n'
                       f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                       f'[grpc]\naddress = "{self.root}/s"\n[ttrpc]\naddress = "{self.root}/s.ttrpc"\n')
        self.log = open(f"{self.root}/log", "wb")
        self.daemon = subprocess.Popen(["containerd", "--config", f"{self.root}/config.toml"], stdout=self.log, stderr=self.log)
        until(lambda: subprocess.run(["ctr", "-a", f"{self.root}/s", "version"], capture_output=True).returncode == 0, "containerd")

    def pull(self, image):
        run("ctr", "-a", f"{self.root}/s", "image", "pull", "--plain-http", f"{self.registry}/{image}")

    def stop(self):
        self.daemon.terminate()
        self.daemon.wait()
        shutil.rmtree(self.root)


def measure(options, root):
    registry_port = port()
    with open(f"{root}/registry.yml", "w") as file:
        file.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
                   f"storage: {{filesystem: {{rootdirectory: {root}/registry}}}}\nhttp: {{addr: '127.0.0.1:{registry_port}'}}\n")
    registry = subprocess.Popen(["docker-registry", "serve", f"{root}/registry.yml"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(registry_port), "the registry")
        host, cache, size = f"127.0.0.1:{registry_port}", {}, options.megabytes * 1_000_000 // options.layers
        shared = list(range(options.layers))
        with open(f"{root}/policy.json", "w") as file:
            file.write('{"default":[{"type":"insecureAcceptAnything"}]}')
        for name, seeds in [("a", shared), ("b", shared[:-1] + [1000])]:
            write_layout(f"{root}/layout-{name}", seeds, size, cache)
            run("skopeo", "--policy", f"{root}/policy.json", "copy", "--dest-tls-verify=false",
                f"oci:{root}/layout-{name}:1", f"docker://{host}/{name}:1")
            shutil.rmtree(f"{root}/layout-{name}")
        compressed = sum(len(blob) for blob, _ in list(cache.values())[: options.layers])
        print(f"{options.layers} layers, {options.megabytes} MB, {compressed / 1e6:.0f} MB compressed, "
              f"{os.cpu_count()} CPUs, {options.runs} rounds")
        cache.clear()
        programs = [Berth(options.binaries, root, host), SkopeoUmoci(root, host), Containerd(root, host)]
        times = {program.name: ([], [], []) for program in programs}
        peaks = []
        for _ in range(options.runs):
            for program in programs:
                program.start()
                usable, stored = timed(lambda: program.pull("a:1"), root)
                second, _ = timed(lambda: program.pull("b:1"), root)
                for column, value in zip(times[program.name], (usable, stored, second)):
                    column.append(value)
                if isinstance(program, Berth):
                    peaks.append(program.peak())
                program.stop()
        return times, peaks
    finally:
        registry.terminate()
        registry.wait()


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("binaries")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.binaries = os.path.abspath(options.binaries)
    if not options.inside:
        again = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, os.path.abspath(__file__)]
        os.execvp("unshare", again + sys.argv[1:] + ["--inside"])
    run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory(prefix="berth-bench-images-") as root:
        times, peaks = measure(options, root)
    print(f"{'seconds (median)':<28} {'usable':>8} {'minimum':>8} {'on disk':>8} {'second':>8}")
    for name, (usable, stored, second) in times.items():
        print(f"{name:<28} {statistics.median(usable):>8.2f} {min(usable):>8.2f} {statistics.median(stored):>8.2f} {statistics.median(second):>8.2f}")
    ours = statistics.median(times["berth"][0])
    fastest = min((statistics.median(columns[0]), name) for name, columns in times.items() if name != "berth")
    second = statistics.median(times["berth"][2])
    print(f"ratio to the faster peer ({fastest[1]}): {ours / fastest[0]:.2f} (bar {TIME_BAR})")
    print(f"berthd's peak memory (VmHWM): {max(peaks) / 2**20:.1f} MiB (bar {MEMORY_BAR >> 20})")
    print(f"second image, one new layer of {options.layers}: {second / ours:.2f} of the first (one layer is {1 / options.layers:.2f})")
    sys.exit(0 if ours / fastest[0] <= TIME_BAR and max(peaks) <= MEMORY_BAR else 1)


if __name__ == "__main__":
    main()
