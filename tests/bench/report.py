"""The tables: medians and minima with ratios, and the comparison of two commits."""

from statistics import median

# The bars against every crun that is measured (its name begins so): case, and the greatest ratio of times.
CRUN_BARS = [("run", 0.5), ("run-engine", 0.45), ("exec", 0.5)]
FLOOR_BAR = ("run", 1.4)
FLEET_BAR = (8, 1.8)
CALLS_BAR = 0.7
PEAK_BAR = 1.0
# A host with many containers or mounts, to one with nothing else.
CROWD_BAR = 1.2


def row(cells):
    return "| " + " | ".join(str(c) for c in cells) + " |"


def header(cells):
    return [row(cells), row(["---"] * len(cells))]


def cell(sample):
    if not sample:
        return "—"
    return f"{median(sample['times']):.2f} ({min(sample['times']):.2f})"


def ratios(case, first, other):
    """Ratio of medians, and of minima, of two runtimes in a case; None without both."""
    mine, theirs = case["samples"].get(first), case["samples"].get(other)
    if not mine or not theirs:
        return None
    return (
        median(mine["times"]) / median(theirs["times"]),
        min(mine["times"]) / min(theirs["times"]),
    )


def ratio_cell(pair):
    return f"{pair[0]:.2f} ({pair[1]:.2f})" if pair else "—"


def times_table(cases, names, first):
    """A row a case: each runtime's median (minimum) in milliseconds, then the first one's ratios."""
    others = [n for n in names if n != first]
    lines = header(["ms: median (minimum)", *names, *(f"{first}/{other}" for other in others)])
    for case in cases.values():
        cells = [case["title"], *(cell(case["samples"].get(name)) for name in names)]
        lines.append(row([*cells, *(ratio_cell(ratios(case, first, other)) for other in others)]))
    return lines


def fleet_table(fleet, names, first):
    others = [n for n in names if n != first and n != "floor"]
    lines = header(
        ["containers/s, create + start + delete", *(n for n in names if n != "floor"), *(f"{first}/{o}" for o in others)]
    )
    for at_a_time, rates in fleet.items():
        cells = [f"by {at_a_time} at a time"]
        cells += [f"{median(rates[n]):.0f} ({max(rates[n]):.0f})" if rates.get(n) else "—" for n in names if n != "floor"]
        for other in others:
            both = rates.get(first) and rates.get(other)
            cells.append(f"{median(rates[first]) / median(rates[other]):.2f}" if both else "—")
        lines.append(row(cells))
    return lines


def resources_table(resources, cases, names):
    lines = header(["one run", "", *names])
    for name, found in resources.items():
        title = cases[name]["title"]
        facts = [
            ("peak memory, MiB", lambda f: f"{f['peak_kib'] / 1024:.1f}"),
            ("system calls", lambda f: sum(f["calls"].values())),
            ("page faults", lambda f: f["faults"]),
        ]
        for label, read in facts:
            lines.append(row([title, label, *(read(found[n]) if n in found else "—" for n in names)]))
        samples = cases[name]["samples"]
        cpu = [
            f"{median(samples[n]['user']) + median(samples[n]['system']):.1f}" if n in samples else "—"
            for n in names
        ]
        lines.append(row([title, "CPU, ms", *cpu]))
    return lines


def crowd_table(crowd, names):
    lines = header(["run `true`, plain bundle", *names])
    for label, samples in crowd.items():
        lines.append(row([label, *(cell(samples.get(name)) for name in names)]))
    return lines


def bars_table(view, first):
    """Each bar, what was measured, and whether it holds."""
    found = []

    def at_most(title, bar, ratio, best):
        found.append((title, f"<= {bar}", ratio, best, ratio <= bar))

    cases, usage = view["cases"], view["resources"].get("run", {})
    cruns = [name for name in cases.get("run", {}).get("samples", {}) if name.startswith("crun")]
    timed = [(name, crun, bar) for crun in cruns for name, bar in CRUN_BARS] + [(FLOOR_BAR[0], "floor", FLOOR_BAR[1])]
    for name, other, bar in timed:
        pair = ratios(cases[name], first, other) if name in cases else None
        if pair:
            at_most(f"{cases[name]['title']}: time to {other}", bar, *pair)
    at_a_time, bar = FLEET_BAR
    rates = view["fleet"].get(str(at_a_time), {})
    for crun in cruns:
        if rates.get(first) and rates.get(crun):
            ratio = median(rates[first]) / median(rates[crun])
            best = max(rates[first]) / max(rates[crun])
            title = f"containers/s by {at_a_time} at a time to {crun}"
            found.append((title, f">= {bar}", ratio, best, ratio >= bar))
        if first in usage and crun in usage:
            mine, theirs = usage[first], usage[crun]
            ratio = mine["peak_kib"] / theirs["peak_kib"]
            at_most(f"peak memory to {crun}", PEAK_BAR, ratio, ratio)
            ratio = sum(mine["calls"].values()) / sum(theirs["calls"].values())
            at_most(f"system calls to {crun}", CALLS_BAR, ratio, ratio)
    alone, *crowded = [(label, rows[first]["times"]) for label, rows in view["crowd"].items() if first in rows] or [None]
    for label, times in crowded:
        ratio, best = median(times) / median(alone[1]), min(times) / min(alone[1])
        at_most(f"run `true` {label}: time to {alone[0]}", CROWD_BAR, ratio, best)
    lines = header(["bar", "wanted", "ratio of medians", "ratio of minima", ""])
    for title, bar, ratio, best, holds in found:
        lines.append(row([title, bar, f"{ratio:.2f}", f"{best:.2f}", "holds" if holds else "**missed**"]))
    return lines


def refusals(cases):
    """What a runtime could not do, a line each."""
    return [
        f"- {name} cannot: {case['title']}: {why}"
        for case in cases.values()
        for name, why in case["refused"].items()
    ]


def whole(result):
    """The whole report as Markdown."""
    first = result["runtimes"][0]
    about = result["about"]
    lines = [
        f"Measured {about['date']}, commit {about['commit']}, Linux {about['kernel']}, {about['cores']} cores.",
        f"Programs: {'; '.join(f'{name}: {text}' for name, text in about['versions'].items())}.",
        f"{about['rounds']} interleaved rounds of {about['runs']} runs a runtime, warm. {about['notes']}".rstrip(),
    ]
    for key, title in (("unified", "cgroup v2 view"), ("hybrid", "hybrid cgroup v1 view of this host")):
        view = result["views"].get(key)
        if not view:
            continue
        names = [n for n in result["runtimes"] if any(n in c["samples"] for c in view["cases"].values())]
        lines += ["", f"## {title}", "", *times_table(view["cases"], names, first)]
        if view["fleet"]:
            lines += ["", *fleet_table(view["fleet"], names, first)]
        if view["resources"]:
            lines += ["", *resources_table(view["resources"], view["cases"], names)]
        if view["crowd"]:
            lines += ["", *crowd_table(view["crowd"], names)]
        if key == "unified" and first in names:
            lines += ["", *bars_table(view, first)]
        if refusals(view["cases"]):
            lines += ["", *refusals(view["cases"])]
    return "\n".join(lines) + "\n"


def slower(rounds_base, rounds_head, tolerance):
    """Whether head is slower than base by more than the tolerance, beyond noise: its median is,
    and in at least 8 of 10 rounds its block was the slower one."""
    pairs = list(zip(rounds_base, rounds_head))
    lost = sum(1 for base, head in pairs if head > base)
    return median(rounds_head) > median(rounds_base) * (1 + tolerance) and lost >= 0.8 * len(pairs)


def comparison(result, base, head, tolerance):
    """The table of two commits, and the titles of the cases in which `head` is slower."""
    lines, worse = [], []
    for key, view in result["views"].items():
        lines += ["", f"## {key}", "", *header(["ms: median (minimum)", base, head, "ratio", ""])]
        for case in view["cases"].values():
            pair = ratios(case, head, base)
            if not pair:
                continue
            samples = case["samples"]
            is_worse = slower(samples[base]["rounds"], samples[head]["rounds"], tolerance)
            is_better = slower(samples[head]["rounds"], samples[base]["rounds"], tolerance)
            verdict = "**slower**" if is_worse else "faster" if is_better else ""
            if is_worse:
                worse.append(f"{case['title']} ({key})")
            lines.append(row([case["title"], cell(samples[base]), cell(samples[head]), ratio_cell(pair), verdict]))
    return "\n".join(lines).strip() + "\n", worse
