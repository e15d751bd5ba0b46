# SPDX-License-Identifier: MIT
"""What is measured. Each function yields rows for the table; whatever is compared is measured in turns."""

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import time

import save
from servers import (
    LIMIT,
    Control,
    Handoffd,
    Helper,
    Watch,
    cpu_ns,
    descriptors,
    haproxy_configuration,
    http_servers,
    memory_kb,
    nginx_configuration,
    now,
    own_start_ns,
    service,
    socket_dump_ns,
    until_answers,
    wakeups,
)

MS = 1e6  # nanoseconds


def row(what, unit, values, goal=None, note="", value=None):
    """`value` is what the goal is about; the median if nothing else is said."""
    values = sorted(values)
    value = statistics.median(values) if value is None else value
    return {
        "what": what,
        "unit": unit,
        "n": len(values),
        "median": statistics.median(values),
        "min": values[0],
        "max": values[-1],
        "p99": values[min(len(values) - 1, int(len(values) * 0.99))],
        "value": value,
        "goal": goal,
        "reached": None if goal is None else value <= goal,
        "note": note,
    }


def verdict(what, unit, value, goal, note=""):
    return row(what, unit, [value], goal, note)


# ---- reload: until the new generation answers ----


def programs(bench):
    """The programs alone: name, port, command."""
    yield "sleepd", (port := next(bench.ports)), [bench.sleepd, "-l", f"127.0.0.1:{port}"]
    if shutil.which("nginx"):
        port = next(bench.ports)
        yield "nginx", port, nginx_configuration(bench.new_directory("alone"), port)
    if shutil.which("haproxy"):
        port = next(bench.ports)
        yield "haproxy", port, haproxy_configuration(bench.new_directory("alone"), port)


def reload(bench, scale):
    servers = http_servers(bench)
    alone = list(programs(bench))
    starts = {name: [] for name, _, _ in alone}
    reloads = {server.name: [] for server in servers}
    for _ in range(scale.repeat):
        for name, port, command in alone:
            starts[name].append(own_start_ns(bench, port, command) / MS)
        for server in servers:
            with Watch(bench, server.port) as watch:
                watch.next()
                at = server.reload()
                reloads[server.name].append((watch.next() - at) / MS)
    for name, values in starts.items():
        yield row(f"start of {name} alone: exec -> first answer", "ms", values)
    for server in servers:
        yield row(f"reload of {server.name}: request -> first new answer", "ms", reloads[server.name])
    for name in ("sleepd", "nginx"):
        if f"handoffd+{name}" in reloads:
            ours, alone = reloads[f"handoffd+{name}"], starts[name]
            more = statistics.median(ours) - statistics.median(alone)
            note = f"of the shortest ones: {min(ours) - min(alone):.2f} ms"
            yield verdict(f"handoffd+{name}: beyond the start of {name} alone", "ms", more, 3, note)


# ---- stall: the longest gap between answers ----


class LostRequests(RuntimeError):
    """What is never to happen to handoffd."""


def gap_ms(bench, server, scale, during):
    """The longest gap of one window of load; during() is called in its middle."""
    command = [bench.load, "--target", f"127.0.0.1:{server.port}", "--rate", scale.rate, "--any-body"]
    command += ["--duration", f"{scale.window}s", "--json"]
    load = subprocess.Popen([str(a) for a in command], stdout=subprocess.PIPE, text=True)
    time.sleep(scale.window / 2)
    during()
    result = json.loads(load.communicate(timeout=LIMIT)[0])
    if result["failed"]:
        raise LostRequests(f"{server.name}: {result['failed']} failures: {result['failures']}")
    return result["longest_gap"] * 1e3


def stall(bench, scale):
    servers = http_servers(bench)
    port = next(bench.ports)

    def start_beside():
        own_start_ns(bench, port, [bench.sleepd, "-l", f"127.0.0.1:{port}"])

    gaps = {server.name: ([], [], []) for server in servers}
    lost = dict.fromkeys(gaps, 0)
    for _ in range(scale.repeat):
        for server in servers:
            turns = (lambda: None), start_beside, server.reload
            for values, during in zip(gaps[server.name], turns):
                try:
                    values.append(gap_ms(bench, server, scale, during))
                except LostRequests:
                    if server.name.startswith("handoffd"):
                        raise
                    lost[server.name] += 1
    for name, (quiet, beside, loud) in gaps.items():
        note = f"{lost[name]} windows not counted, they lost requests" if lost[name] else ""
        if not (quiet and beside and loud):
            yield row(f"{name}: windows that lost requests", "", [lost[name]])
            continue
        yield row(f"{name}: longest gap, no reload", "ms", quiet, note=note)
        yield row(f"{name}: longest gap, a program started beside it", "ms", beside)
        yield row(f"{name}: longest gap, reload", "ms", loud)
        ratio = statistics.median(loud) / statistics.median(quiet)
        goal = 1.1 if name == "handoffd+sleepd" else None
        yield row(f"{name}: reload / no reload", "x", [ratio], goal)


# ---- idle: memory and wake-ups of the masters ----


def idle(bench, scale):
    servers = http_servers(bench)
    waken = {server.name: [] for server in servers}
    time.sleep(scale.idle)  # whatever the start left to do is no matter of rest
    for _ in range(scale.windows):
        before = {server.name: wakeups(server.pid) for server in servers}
        time.sleep(scale.idle)
        for server in servers:
            waken[server.name].append((wakeups(server.pid) - before[server.name]) / scale.idle)
    for server in servers:
        ours = server.name == "handoffd+sleepd"
        memory = memory_kb(server.pid)
        note = f"RSS {memory['Rss'] / 1024:.1f} MB, private {memory['Pss_Anon'] / 1024:.1f} MB anonymous"
        pss = [memory["Pss"] / 1024]
        yield row(f"{server.name}: PSS of the master", "MB", pss, 2 if ours else None, note)
        values = waken[server.name]
        yield row(
            f"{server.name}: wake-ups of the master", "/s", values, 0 if ours else None, value=max(values)
        )


# ---- flip: turning new connections ----


def flip(bench, scale):
    costs = {"ebpf": [], "cbpf": []}
    used = {}
    for _ in range(scale.repeat):
        for steering, values in costs.items():
            lines = subprocess.run(
                [str(a) for a in (bench.flip, steering, next(bench.ports), scale.flips)],
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=True,
            ).stdout.split()
            used[steering] = lines[0]
            values.append(statistics.median(map(int, lines[1:])) / 1e3)
    for steering, goal in (("ebpf", 5), ("cbpf", 40)):
        if used[steering] == steering:
            yield row(f"flip by {steering}, median of {scale.flips}", "us", costs[steering], goal)
        else:
            yield row(f"flip by {steering}: the kernel permits only {used[steering]}", "us", costs[steering])


# ---- live: connections passed to the next generation ----


def live(bench, scale):
    totals, pauses, wrong = [], [], []
    for _ in range(scale.repeat):
        lines = subprocess.run(
            [str(a) for a in (bench.live, scale.live)], capture_output=True, text=True, timeout=LIMIT, check=False
        ).stdout.split()
        total, pause, _, bad = map(int, lines)
        totals.append(total / 1e3)
        pauses.append(pause / 1e3)
        wrong.append(bad)
    yield row(f"{scale.live} live connections passed under traffic", "ms", totals, 100)
    yield row("longest pause of one of them", "ms", pauses)
    yield verdict("numbers lost, doubled or out of order", "", sum(wrong), 0)


# ---- drain: from the last close to the signal ----


class Stamps:
    """What bench-worker notes: {generation: time of its SIGTERM}."""

    def __init__(self, path):
        self.path = path

    def of(self, generation):
        for line in self.path.read_text().splitlines():
            number, at = line.split()
            if int(number) == generation:
                return int(at)
        raise RuntimeError(f"generation {generation} has noted no signal")


def until(events, name, generation):
    for event in events:
        if event["event"] == name and event["generation"] == generation:
            return event
    return None


def drain(bench, scale):
    port = next(bench.ports)
    stamps = Stamps(bench.new_directory("stamps") / "stamps")
    extra = f'environ = {{"BENCH_STAMPS={stamps.path}"}}'
    server = Handoffd(bench, "handoffd+worker", port, service([bench.worker], port, extra=extra))
    asking, following = Control(server.control), Control(server.control)
    events = following.follow()
    times, dumps = [], []
    for generation in range(1, scale.drains + 1):
        client = socket.create_connection(("127.0.0.1", port))
        asking.call("Reload", services=["web"], wait="serving")
        until(events, "generation-quiet", generation)
        asking.call("GetStatus")  # the watch has begun
        at = now()
        client.close()
        until(events, "generation-gone", generation)
        times.append((stamps.of(generation) - at) / MS)
        dumps.append(socket_dump_ns() / MS)
    asking.close()
    following.close()
    yield row("the kernel's walk through its TCP sockets, part of it", "ms", dumps)
    result = row("last close -> signal in the worker", "ms", times, 1)
    result["note"] = f"p99 {result['p99']:.2f} ms"
    yield result


# ---- rollback: back to a warm generation, under load ----


def rollback(bench, scale):
    port = next(bench.ports)
    extra = 'rollout { bake = "0" keep-warm = "10min" }'
    server = Handoffd(bench, "handoffd+sleepd", port, service([bench.sleepd], port, extra=extra))
    asking = Control(server.control)
    command = [bench.load, "--target", f"127.0.0.1:{port}", "--rate", scale.rate, "--any-body"]
    load = subprocess.Popen(
        [str(a) for a in [*command, "--until-signal", "--json"]], stdout=subprocess.PIPE, text=True
    )
    times = []
    with Watch(bench, port, "turns") as watch:
        watch.next()
        for _ in range(scale.rollbacks):
            asking.call("Reload", services=["web"], wait="serving")
            watch.next()
            at = now()
            asking.send("Rollback", service="web")
            times.append((watch.next() - at) / MS)
            asking.receive()
    load.terminate()
    result = json.loads(load.communicate(timeout=LIMIT)[0])
    asking.close()
    yield row("rollback: request -> first connection of the old one answered", "ms", times, 1)
    yield verdict("requests lost meanwhile", "", result["failed"], 0, f"of {result['ok']}")


# ---- adopt: what it costs to be adopted ----


NODE = """
const answer = `pid=${process.pid}\n`;
require("http").createServer((_, response) => response.end(answer)).listen(Number(process.argv[2]), "127.0.0.1");
"""


def adopted_and_not(bench, name, command):
    """The same program twice: its sockets are taken over; nobody looks at what it binds."""
    port, other = next(bench.ports), next(bench.ports)
    extra = 'sockets = "adopt"'
    yield Handoffd(bench, f"{name}-adopted", port, service(command(port), port, extra=extra))
    yield Handoffd(bench, f"{name}-alone", other, service(command(other)))


def rate(bench, server, scale):
    """Requests a second of 8 clients that do nothing else, ten requests a connection."""
    command = [bench.load, "--target", f"127.0.0.1:{server.port}", "--rate", 0, "--keepalive", 8, "--think", "0ms"]
    command += ["--requests-per-connection", 10, "--duration", f"{scale.window}s", "--any-body", "--json"]
    done = subprocess.run([str(a) for a in command], stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=False)
    result = json.loads(done.stdout)
    if result["failed"]:
        raise LostRequests(f"{server.name}: {result['failed']} failures: {result['failures']}")
    return result["ok"] / result["duration"]


def adopt(bench, scale):
    program = bench.new_directory("node") / "server.js"
    program.write_text(NODE)
    programs = {"sleepd": lambda port: [bench.sleepd, "-l", f"127.0.0.1:{port}"]}
    if node := shutil.which("node"):
        programs["node"] = lambda port: [node, program, port]
    for name, command in programs.items():
        adopted, alone = adopted_and_not(bench, name, command)
        for server in (adopted, alone):
            until_answers(server)
            rate(bench, server, scale)  # the program becomes warm
        pairs = []
        for i in range(2 * scale.repeat):  # in turns, and each first as often as the other
            pair = [(s, rate(bench, s, scale)) for s in ((adopted, alone) if i % 2 else (alone, adopted))]
            pairs.append({s.name: r for s, r in pair})
        ours = [p[adopted.name] for p in pairs]
        theirs = [p[alone.name] for p in pairs]
        yield row(f"{name}, not adopted", "req/s", theirs)
        yield row(f"{name}, adopted", "req/s", ours)
        ratios = [b / a for a, b in zip(ours, theirs)]
        note = f"throughput {statistics.median(ours) / statistics.median(theirs):.3f} of the other"
        yield row(f"{name}: time of a request, adopted / not", "x", ratios, 1.05, note)


# ---- held: many connections of a draining generation ----


def in_flight(status, generation):
    for g in status["services"][0]["generations"]:
        if g["id"] == generation:
            return g["in_flight"]
    return None


def held(bench, scale):
    port = next(bench.ports)
    workers = 4
    most = scale.held // workers + scale.held // 50 + 1
    extra = f'workers = {workers}\n\tdrain {{ deadline = "600s" }}'
    server = Handoffd(bench, "handoffd+worker", port, service([bench.worker, most], port, extra=extra))
    control = Control(server.control)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(Helper(bench.client, "hold", port, scale.held // 4, f"127.0.0.{i + 2}"))
            for i in range(4)
        ]
        for client in clients:
            client.line()
        following = Control(server.control)
        events = following.follow()
        control.call("Reload", services=["web"], wait="serving")
        until(events, "generation-quiet", 1)
        began = cpu_ns(server.pid)
        count = in_flight(control.call("GetStatus")["status"], 1)
        yield row("connections held by a draining generation", "", [count])
        loads = []
        first, at = cpu_ns(server.pid), now()
        for _ in range(scale.seconds):
            before, since = cpu_ns(server.pid), now()
            time.sleep(1)
            loads.append(100 * (cpu_ns(server.pid) - before) / (now() - since))
        whole = 100 * (cpu_ns(server.pid) - first) / (now() - at)
        yield row(
            f"handoffd while they are idle, over {scale.seconds} s", "% cpu", loads, 1, value=whole,
            note=f"{whole:.2f} % in all; before it {(first - began) / MS:.0f} ms for status",
        )
        at, before = now(), cpu_ns(server.pid)
        for client in clients:
            client.tell("close\n")
        last = max(int(client.line()) for client in clients)
        until(events, "generation-stopping", 1)
        yield row("all close: last close -> the generation is told", "ms", [(now() - last) / MS])
        yield row("all close: handoffd for it", "ms cpu", [(cpu_ns(server.pid) - before) / MS])
        until(events, "generation-gone", 1)
        following.close()
    control.close()


# ---- services: one beside many ----


class One:
    """The service that is reloaded, in a handoffd with others."""

    def __init__(self, bench, others):
        port = next(bench.ports)
        text = service([bench.worker], port, name="one")
        for i in range(others):
            text += service(["/bin/sleep", "infinity"], name=f"other-{i}")
        self.server = Handoffd(bench, f"handoffd-{others}", port, text)
        self.asking, self.following = Control(self.server.control), Control(self.server.control)
        self.events = self.following.follow()
        self.generation = 1

    def reload(self):
        """Until it serves, and the processor time of handoffd until the old generation is gone; in ms."""
        before, at = cpu_ns(self.server.pid), now()
        self.asking.call("Reload", services=["one"], wait="serving")
        served = now()
        until(self.events, "generation-gone", self.generation)
        self.generation += 1
        return (served - at) / MS, (cpu_ns(self.server.pid) - before) / MS


def services(bench, scale):
    n = scale.repeat * 2
    few = One(bench, 0)
    alone = [few.reload() for _ in range(n)]
    many = One(bench, scale.services)
    crowded, beside = [], []
    for _ in range(n):  # the processes of the others are on the machine for both
        crowded.append(few.reload())
        beside.append(many.reload())
    cases = {
        "alone": alone,
        f"alone, {scale.services} foreign processes": crowded,
        f"beside {scale.services} services": beside,
    }
    medians = [[statistics.median(values) for values in zip(*pairs)] for pairs in cases.values()]
    for name, pairs in cases.items():
        times, costs = zip(*pairs)
        yield row(f"{name}: request -> serving", "ms", times)
        yield row(f"{name}: handoffd for it", "ms cpu", costs)
    for one, name in ((few, "1 service"), (many, f"{scale.services + 1} services")):
        yield row(f"PSS of handoffd with {name}", "MB", [memory_kb(one.server.pid)["Pss"] / 1024])
    for i, what in enumerate(("request -> serving", "processor time")):
        note = f"with foreign processes instead {medians[1][i] / medians[0][i]:.2f} x"
        ratio = medians[2][i] / medians[0][i]
        yield verdict(f"{what}: beside {scale.services} / alone", "x", ratio, 1.2, note)


# ---- inflight: what counting in libhandoff costs ----


def inflight(bench, scale):
    found = {"request": [], "connection": [], "ratio": [], "served": []}
    for _ in range(scale.repeat):
        out = subprocess.run(
            [bench.inflight, str(scale.counted)], check=True, capture_output=True, text=True, timeout=LIMIT
        ).stdout
        for line in out.splitlines():
            name, value = line.split()
            found[name].append(float(value))
    yield row("libhandoff: begin and end of a request", "ns", found["request"])
    yield row("libhandoff: begin and end of a connection", "ns", found["connection"])
    cost = [1 / ratio for ratio in found["ratio"]]
    yield row("sleepd: processor time for a request", "ns", found["served"])
    note = f"throughput with it {1 / statistics.median(cost):.4f} of that without"
    yield row("sleepd: processor time for a request, counted / not counted", "x", cost, 1 / 0.99, note)


# ---- soak: a thousand reloads ----


def soak(bench, scale):
    port = next(bench.ports)
    server = Handoffd(bench, "handoffd+worker", port, service([bench.worker], port))
    asking, following = Control(server.control), Control(server.control)
    events = following.follow()
    done = 0

    def reloads(n):
        nonlocal done
        for _ in range(n):
            asking.call("Reload", services=["web"], wait="serving")
            done += 1
            until(events, "generation-gone", done)

    reloads(scale.warm_up)  # what is kept of the last ones (events, last words) is there afterwards
    samples = []
    before, fds = memory_kb(server.pid), descriptors(server.pid)
    began, cpu = now(), cpu_ns(server.pid)
    for _ in range(10):
        reloads(scale.reloads // 10)
        samples.append(memory_kb(server.pid)["Pss"])
    seconds, cpu = (now() - began) / 1e9, (cpu_ns(server.pid) - cpu) / MS
    after = memory_kb(server.pid)
    n = scale.reloads // 10 * 10
    trail = "PSS in kB: " + " ".join(map(str, [before["Pss"], *samples]))
    yield row(f"{n} reloads: each", "ms", [seconds * 1e3 / n])
    yield row(f"{n} reloads: handoffd for each", "ms cpu", [cpu / n])
    yield row("RSS before", "kB", [before["Rss"]])
    yield row("RSS after", "kB", [after["Rss"]])
    yield verdict(f"PSS grown by {n} reloads", "kB", after["Pss"] - before["Pss"], 64, trail)
    yield verdict(f"descriptors more after {n} reloads", "", descriptors(server.pid) - fds, 0)
    asking.close()
    following.close()


# ---- save: until the new code answers ----


def saves(bench, scale):
    yield from save.measure(bench, scale, row, verdict)


MEASURES = {
    "reload": reload,
    "stall": stall,
    "idle": idle,
    "flip": flip,
    "live": live,
    "drain": drain,
    "adopt": adopt,
    "rollback": rollback,
    "held": held,
    "services": services,
    "save": saves,
    "inflight": inflight,
    "soak": soak,
}
