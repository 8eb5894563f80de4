#!/usr/bin/env python3
"""Berth's CNI plugins against the reference plugins, in turn, on the same machine.

usage: cni.py OURS_DIR [--reference DIR] [--runs N] [--parallel N] [--bursts N]

OURS_DIR has the plugins' links. Everything happens in private network and mount namespaces:
the script starts itself again by unshare. Prints milliseconds (median, minimum) of ADD and DEL,
CPU milliseconds of the processes, ratios, and each bar with pass or FAIL; ends with 1 if one is missed.
"""
import argparse, json, os, resource, statistics, subprocess, sys, time

BARS = {  # case: (ADD ratio, DEL ratio) at most
    "bridge+host-local": (0.4, None),
    "bridge masquerading": (0.2, None),
    "chain bridge+portmap+firewall+bandwidth": (0.15, 0.3),
}


def call(directory, kind, verb, container, config):
    environment = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": "eth0", "CNI_PATH": directory, "PATH": os.environ["PATH"],
    }
    done = subprocess.run([f"{directory}/{kind}"], input=json.dumps(config).encode(), env=environment, capture_output=True)
    if done.returncode:
        sys.exit(f"{directory}/{kind} {verb}: {done.stdout.decode()} {done.stderr.decode()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def plugins(case, tag):
    bridge = {
        "type": "bridge", "bridge": f"b{tag}", "isGateway": True, "isDefaultGateway": True,
        "ipMasq": case != "bridge+host-local",
        "ipam": {"type": "host-local", "dataDir": f"/run/leases-{tag}", "subnet": f"10.{80 + len(tag)}.0.0/16"},
    }
    if not case.startswith("chain"):
        return [bridge]
    return [
        bridge,
        {"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}},
        {"type": "firewall"},
        {"type": "bandwidth", "ingressRate": 80000000, "ingressBurst": 8000000, "egressRate": 80000000, "egressBurst": 8000000},
    ]


def one(directory, case, container, tag):
    chain = [dict(p, cniVersion="1.0.0", name=f"net{tag}") for p in plugins(case, tag)]
    def usage():
        u = resource.getrusage(resource.RUSAGE_CHILDREN)
        return u.ru_utime + u.ru_stime
    result, start, cpu = None, time.perf_counter(), usage()
    for config in chain:
        if result:
            config = dict(config, prevResult=result)
        result = call(directory, config["type"], "ADD", container, config) or result
    add, middle = time.perf_counter() - start, time.perf_counter()
    for config in reversed(chain):
        call(directory, config["type"], "DEL", container, dict(config, prevResult=result))
    return add * 1e3, (time.perf_counter() - middle) * 1e3, (usage() - cpu) * 1e3


def burst(directory, count, tag):
    config = dict(plugins("bridge masquerading", tag)[0], cniVersion="1.0.0", name=f"net{tag}")
    for n in range(count):
        subprocess.run(["ip", "netns", "add", f"{tag}{n}"], check=True)
    with open(f"/run/config-{tag}", "w") as file:
        json.dump(config, file)
    start, children = time.perf_counter(), []
    for n in range(count):
        environment = {
            "CNI_COMMAND": "ADD", "CNI_CONTAINERID": f"{tag}{n}", "CNI_NETNS": f"/run/netns/{tag}{n}",
            "CNI_IFNAME": "eth0", "CNI_PATH": directory, "PATH": os.environ["PATH"],
        }
        children.append(subprocess.Popen([f"{directory}/bridge"], stdin=open(f"/run/config-{tag}"), env=environment,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    results = [(c.communicate()[0], c.returncode) for c in children]
    seconds = time.perf_counter() - start
    good = [json.loads(out) for out, code in results if code == 0]
    addresses = {ip["address"] for r in good for ip in r["ips"]}
    macs = {r["interfaces"][0]["mac"] for r in good}
    return len(good) / seconds, count - len(good), len(good) - len(addresses), len(macs)


def parallel(side, directory, options):
    """Bursts on a host that has never seen a plugin: network namespaces of their own. Gives the worst counts."""
    command = ["unshare", "-nm", "--propagation", "private", sys.executable, sys.argv[0], directory, "--parallel", str(options.parallel), "--burst", side]
    rates, failed, double, macs = zip(*(json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(options.bursts)))
    print(f"{options.parallel} first ADDs at once, {side}: {statistics.median(rates):.0f} a second (median of {options.bursts}),"
          f" {max(failed)} failed, {max(double)} addresses twice, {max(macs)} bridge address")
    return statistics.median(rates), max(failed) + max(double) + max(macs) - 1


def verdict(what, value, bar, below=True):
    met = value <= bar if below else value >= bar
    print(f"  {'pass' if met else 'FAIL'}  {what} {value:.2f}, bar {'at most' if below else 'at least'} {bar}")
    return met


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ours")
    parser.add_argument("--reference", default="/usr/lib/cni")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--parallel", type=int, default=50)
    parser.add_argument("--bursts", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--burst", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside and not options.burst:
        os.execvp("unshare", ["unshare", "-nm", "--propagation", "private", sys.executable, *sys.argv, "--inside"])
    subprocess.run("mount -t tmpfs bench /run; mkdir -p /run/netns; ip link set lo up", shell=True, check=True)
    if options.burst:
        print(json.dumps(burst(options.ours, options.parallel, options.burst[0])))
        return
    subprocess.run(["ip", "netns", "add", "c"], check=True)
    sides = {"berth": options.ours, "reference": options.reference}
    met = []
    print(f"{'case':42} {'side':10} {'ADD med':>8} {'min':>7} {'DEL med':>8} {'min':>7} {'cpu':>7}   (ms, {options.runs} runs in turn; cpu of ADD and DEL)")
    for case, bars in BARS.items():
        runs = {side: [] for side in sides}
        for _ in range(options.runs + 2):
            for tag, (side, directory) in zip("ob", sides.items()):
                runs[side].append(one(directory, case, "c", tag * (1 if side == "berth" else 2)))
        medians = {}
        for side, all_runs in runs.items():
            add, delete, cpu = zip(*all_runs[2:])
            medians[side] = statistics.median(add), statistics.median(delete), statistics.median(cpu)
            print(f"{case:42} {side:10} {medians[side][0]:8.1f} {min(add):7.1f} {medians[side][1]:8.1f} {min(delete):7.1f} {medians[side][2]:7.1f}")
        ratios = [a / b for a, b in zip(medians["berth"], medians["reference"])]
        print(f"{'':42} {'ratio':10} {ratios[0]:8.2f} {'':7} {ratios[1]:8.2f} {'':7} {ratios[2]:7.2f}")
        met += [verdict(f"{verb} of {case}", ratio, bar) for verb, ratio, bar in zip(("ADD", "DEL"), ratios, bars) if bar]
    (ours, wrong), (theirs, _) = (parallel(side, directory, options) for side, directory in sides.items())
    met.append(verdict("parallel ADDs a second, times the reference's", ours / theirs, 5, below=False))
    met.append(verdict("parallel ADDs that failed, addresses twice, bridge addresses too many", wrong, 0))
    sys.exit(not all(met))


main()
