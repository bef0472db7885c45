"""The cases: what each proxy is asked for, and what keygate must reach."""

import json
import subprocess
import time
import urllib.request

import counts
import http2
import proxies
import reload
from measure import Fault, MachineTime, Rounds, measure

CHUNKS = 100
RIVALS = ["nginx", "haproxy"]


class Bench:
    """One case on the stage: its proxies, its tables, its marks."""

    def __init__(self, stage, given, number):
        self.stage, self.given, self.number = stage, given, number
        self.tables, self.marks, self.notes = [], [], []
        self.running, self.others = {}, []
        self.title = CASES[number].__doc__.splitlines()[0]

    def builds(self):
        """The builds of keygate that are compared, by the name in the tables."""
        builds = {}
        for build in self.given.keygate:
            label, _, path = build.rpartition("=")
            builds[f"keygate {label}".strip()] = path
        return builds

    def only_counts(self):
        return self.given.counts == "only"

    def wants(self, name):
        peers = [peer for peer in self.given.peers.split(",") if peer]
        return not peers or name.split()[0] in peers

    def start(self, makers, suffix="", only=None, **options):
        """Starts every build of keygate, or only one, and these others, and sees each of them do its work."""
        options = {"keys": self.given.keys, **options}
        for name, path in self.builds().items():
            if self.wants(name) and only in (None, name):
                self.add(proxies.keygate(self.stage, name + suffix, path, **options))
        for maker in makers:
            if self.wants(maker.__name__):
                self.add(maker(self.stage, maker.__name__ + suffix, **options))

    def start_one(self, maker, **options):
        self.add(maker(self.stage, **options))

    def add(self, proxy):
        if proxy.process:
            self.verify(proxy)
        proxy.hold()
        self.running[proxy.name] = proxy

    def verify(self, proxy):
        """A good key passes and a bad one does not, and connections to the upstream are kept."""
        tool, near = self.stage.tool, self.stage.near
        if not proxy.is_open:
            bad = {**proxy.ask, "tokens": None, "token": "kg_" + "0" * 49}
            tool.load(near, count=3, connections=1, status=proxy.refusal, **bad)
        before = self.upstream()
        asked = 40 if proxy.is_slow else 400
        tool.load(near, count=asked, connections=8, **{**proxy.ask, **self.right_answer(proxy)})
        after = self.upstream()
        connections = after["connections"] - before["connections"]
        requests = after["requests"] - before["requests"]
        if requests < asked:
            raise Fault(f"{proxy.name}: the upstream saw {requests} of {asked} requests")
        if connections > asked / 2:
            raise Fault(f"{proxy.name}: {connections} connections to the upstream for {asked} requests")

    def upstream(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.stage.upstream}/stand-in") as answer:
            return json.load(answer)

    def right_answer(self, proxy, **ask):
        """The length that every answer must have, where answers pass as they are."""
        return {"length": self.stage.answer_length(**ask) if proxy.passes_bytes else None}

    def interleaved(self, names=None, rounds=None, cores=None, **ask):
        """Each of them in turn, several rounds, in alternating order."""
        names = names or list(self.running)
        table = Rounds(names)
        shape = {name: ask[name] for name in ("stream",) if name in ask}
        for number in range(rounds or self.given.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                proxy = self.running[name]
                told = {"seconds": self.given.seconds, "connections": 64, "headers": self.given.headers}
                if "status" not in ask:
                    told |= self.right_answer(proxy, **shape)
                told |= {**proxy.ask, **ask}
                load = lambda: self.stage.tool.load(cores or self.stage.near, **told)
                table.add(name, self.once(proxy, load))
        return table

    def once(self, proxy, load):
        proxy.go_on()
        # What it put off while it was held is not what is measured.
        time.sleep(0.05)
        machine = MachineTime(self.stage.upstream_process)
        try:
            figures = measure(proxy.process, load)
            self.others.append(machine.of_others(figures))
            return figures
        finally:
            proxy.hold()
            proxy.tidy()

    def table(self, caption, header, rows):
        self.tables.append({"caption": caption, "header": header, "rows": rows})

    def mark(self, what, value, most=None, least=None, unit="×"):
        """One line of what must be reached."""
        if value is not None:
            self.marks.append({"what": what, "value": value, "most": most, "least": least, "unit": unit})

    def mark_within(self, table, figure, name, other, what, most):
        """A mark on one's own ratio to another in the same round."""
        ratios = table.ratios(name, figure, [other])
        if ratios:
            self.mark(f"{what}, {name.partition(',')[0]}", middle(ratios), most)

    def note(self, text):
        self.notes.append(text)

    def stop(self):
        for proxy in self.running.values():
            proxy.stop()
        self.running = {}

    def result(self):
        return {
            "number": self.number,
            "title": self.title,
            "tables": self.tables,
            "marks": self.marks,
            "notes": self.notes,
            # How much of the machine others used meanwhile, from the quietest run to the loudest.
            "others": [min(self.others), middle(self.others), max(self.others)] if self.others else None,
            "rounds": self.given.rounds,
            "seconds": self.given.seconds,
        }

    def cost_table(self, caption, table, unit="request", per=1, extra=()):
        """CPU and requests of every proxy, and keygate's ratio to the better rival in the same round."""
        header = ["proxy", f"{unit}s/s", f"CPU µs a {unit}", "min to max", "user", "system", "× better rival"]
        # Several builds of keygate are held against the first.
        first, *builds = [name for name in self.builds() if name in table.of] or [None]
        if builds:
            extra = [(f"× {first}", lambda table, name: ratio(table.ratios(name, "cpu", [first]))), *extra]
        header += [title for title, _ in extra] + [f"load's own CPU µs a {unit}"]
        rows = []
        for name in table.of:
            cpu = [value / per for value in table.values(name, "cpu") if value is not None]
            ratios = [] if name.partition(",")[0] in RIVALS else table.ratios(name, "cpu", RIVALS)
            rows.append(
                [name, whole(scaled(table.median(name, "rate"), per))]
                + [micro(scaled(table.median(name, "cpu"), 1 / per)), spread(cpu)]
                + [micro(scaled(table.median(name, part), 1 / per)) for part in ("user", "system")]
                + [ratio(ratios)]
                + [show(table, name) for _, show in extra]
                + [micro(scaled(table.median(name, "load_cpu"), 1 / per))]
            )
        self.table(caption, header, rows)

    def mark_cpu(self, what, table, most):
        for name in self.builds():
            if name in table.of:
                ratios = table.ratios(name, "cpu", RIVALS)
                if ratios:
                    self.mark(f"{what}: CPU, {name} by the better of nginx and HAProxy", middle(ratios), most)


def scaled(value, by):
    return None if value is None else value * by


def middle(values):
    values = sorted(values)
    return values[len(values) // 2] if len(values) % 2 else sum(values[len(values) // 2 - 1 :][:2]) / 2


def whole(value):
    return "" if value is None else f"{value:,.0f}".replace(",", " ")


def micro(value):
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def spread(values):
    return f"{micro(min(values))} to {micro(max(values))}" if values else ""


def ratio(values):
    return f"**{middle(values):.2f}** ({min(values):.2f} to {max(values):.2f})" if values else ""


def mebibytes(bytes_):
    return "" if bytes_ is None else f"{bytes_ / 2**20:.1f}"


def case_1(bench):
    """2 kB chat, 64 connections"""
    counts.table(bench)
    if bench.only_counts():
        return
    bench.start([proxies.direct, proxies.nginx, proxies.haproxy])
    rest = {name: proxy.process.resident() for name, proxy in bench.running.items() if proxy.process}
    busy = bench.interleaved()
    bench.cost_table(
        "As fast as it goes",
        busy,
        extra=[
            ("memory at rest, MiB", lambda _, name: mebibytes(rest.get(name))),
            ("under load, MiB", lambda table, name: mebibytes(table.median(name, "resident"))),
        ],
    )
    bench.mark_cpu("1", busy, 0.92)
    steady = bench.interleaved(rate=5000)
    steady_table(bench, steady)
    for name in bench.builds():
        ratios = steady.ratios(name, "p99", RIVALS) if name in steady.of else []
        if ratios:
            bench.mark(f"1: p99 at 5 000 a second, {name} by the better of nginx and HAProxy", middle(ratios), 1.0)
    others(bench)


def others(bench):
    """Envoy, LiteLLM and Portkey: how many requests a core of each is worth."""
    makers = [maker for maker in (proxies.envoy, proxies.litellm, proxies.portkey) if bench.wants(maker.__name__)]
    builds = [name for name in bench.builds() if name in bench.running]
    if not makers:
        return
    for maker in makers:
        try:
            bench.start_one(maker)
        except Fault as fault:
            bench.note(f"**{maker.__name__} could not be measured**: {fault}")
    names = builds + [maker.__name__ for maker in makers if maker.__name__ in bench.running]
    # Seconds enough for the slowest to answer some hundred.
    table = bench.interleaved(names=names, seconds=max(3.0, bench.given.seconds), rounds=min(3, bench.given.rounds))
    a_core = lambda name: 1e6 / table.median(name, "cpu")
    bench.cost_table(
        "Beside gateways and Envoy",
        table,
        extra=[
            ("requests a second that a whole core is worth", lambda _, name: whole(a_core(name))),
            ("memory under load, MiB", lambda table, name: mebibytes(table.median(name, "resident"))),
        ],
    )
    least = {"envoy": 5, "litellm": 1000, "portkey": 100}
    for build in builds:
        for name in names:
            if name in least:
                bench.mark(f"1: requests a core, {build} by {name}", a_core(build) / a_core(name), least=least[name])


def steady_table(bench, steady):
    rows = []
    for name in steady.of:
        row = [name]
        for figure in ("p50", "p99"):
            values = steady.values(name, figure)
            row += [whole(middle(values)), spread_whole(values), added(steady, name, figure)]
        rows.append(row + [micro(steady.median(name, "cpu"))])
    bench.table(
        "At 5 000 requests a second, µs from when a request was meant to start",
        ["proxy", "p50", "min to max", "added", "p99", "min to max", "added", "CPU µs a request"],
        rows,
    )


def added(steady, name, figure):
    """What a proxy adds to the way without one, in the same round."""
    if name == "direct" or "direct" not in steady.of:
        return ""
    pairs = zip(steady.values(name, figure), steady.values("direct", figure), strict=True)
    return whole(middle([value - floor for value, floor in pairs]))


def spread_whole(values):
    return f"{whole(min(values))} to {whole(max(values))}" if values else ""


def case_2(bench):
    """64 kB chat"""
    counts.table(bench, few=200, many=800, body=65536)
    if bench.only_counts():
        return
    bench.start([proxies.direct, proxies.nginx, proxies.haproxy])
    busy = bench.interleaved(body=65536)
    bench.cost_table("64 connections, as fast as it goes", busy)
    bench.mark_cpu("2", busy, 1.10)


def case_3(bench):
    """Streams of 100 chunks"""
    counts.table(bench, unit="chunk", per=CHUNKS, few=8, many=24, stream=f"{CHUNKS} 20000")
    if bench.only_counts():
        return
    bench.start([proxies.direct, proxies.nginx, proxies.haproxy])
    # The streams begin one after the other over 2 s, the length of one, so that they don't tick together.
    seconds = max(3.0, bench.given.seconds)
    paced = bench.interleaved(connections=400, stream=f"{CHUNKS} 20000", spread=2.0, seconds=seconds)
    bench.cost_table("400 at once, a chunk every 20 ms", paced, unit="chunk", per=CHUNKS)
    bench.mark_cpu("3, paced", paced, 1.00)
    hasty = bench.interleaved(connections=64, stream=f"{CHUNKS} 0")
    bench.cost_table("64 at once, as fast as they come", hasty, unit="chunk", per=CHUNKS)
    bench.mark_cpu("3, as fast as they come", hasty, 1.00)


def case_4(bench):
    """Refused requests"""
    material = bench.stage.keys(bench.given.keys)
    counts.table(bench, unit="refusal", status=401, tokens=material / "bad.txt")
    if bench.only_counts():
        return
    bench.start([proxies.nginx, proxies.haproxy])
    forwarded = bench.interleaved()
    bench.cost_table("Forwarded, to compare with", forwarded)
    refusals = [
        ("Bad token", {"tokens": material / "bad.txt"}, 401, None),
        ("Wrong network", {"tokens": material / "network.txt"}, 401, list(bench.builds())),
        ("Wrong model", {"tokens": material / "model.txt"}, 404, list(bench.builds())),
    ]
    for caption, ask, status, names in refusals:
        names = [name for name in names or bench.running if name in bench.running]
        refused = bench.interleaved(names=names, status=status, **ask)
        bench.cost_table(caption, refused, extra=[("connections a request", connects_a_request)])
        for name in bench.builds():
            if name in refused.of:
                pairs = zip(refused.values(name, "cpu"), forwarded.values(name, "cpu"), strict=True)
                shares = [refusal / forward for refusal, forward in pairs]
                what = f"4: {caption.lower()}: CPU of a refusal by that of a forwarded request, {name}"
                bench.mark(what, middle(shares), 0.5)
        if caption == "Bad token":
            bench.mark_cpu("4: bad token", refused, 1.00)


def connects_a_request(table, name):
    return f"{sum(table.values(name, 'connects')) / sum(table.values(name, 'requests')):.2f}"


def case_5(bench):
    """TLS, HTTP/1.1 and HTTP/2"""
    bench.start([proxies.nginx, proxies.haproxy], tls=True)
    busy = bench.interleaved()
    bench.cost_table("HTTP/1.1, 64 connections", busy)
    bench.mark_cpu("5, HTTP/1.1", busy, 0.95)
    multiplexed = Rounds(list(bench.running))
    for number in range(bench.given.rounds):
        for name in list(bench.running)[:: 1 if number % 2 == 0 else -1]:
            proxy = bench.running[name]
            ask = lambda: http2.load(bench.stage, proxy, int(bench.given.seconds * 15_000), bench.given.headers)
            multiplexed.add(name, bench.once(proxy, ask))
    bench.cost_table("HTTP/2, 8 connections of 8 streams each, by h2load", multiplexed)
    bench.mark_cpu("5, HTTP/2", multiplexed, 1.10)


def case_6(bench):
    """A new connection for each request"""
    for caption, tls in (("Plain", False), ("TLS, a whole handshake each", True)):
        bench.start([proxies.nginx, proxies.haproxy], tls=tls)
        fresh = bench.interleaved(fresh="yes", connections=32)
        bench.cost_table(caption, fresh)
        bench.stop()


def case_7(bench):
    """One worker and two"""
    both = bench.stage.near | bench.stage.far
    bench.note("Here load, upstream and proxy share both cores, with one worker and with two.")
    for workers in (1, 2):
        suffix = f", {workers} worker{'s' if workers > 1 else ''}"
        bench.start([proxies.nginx, proxies.haproxy], suffix=suffix, workers=workers, cores=both)
    table = bench.interleaved(cores=both)
    bench.cost_table("64 connections, as fast as it goes", table)
    for build in bench.builds():
        bench.mark_within(table, "cpu", f"{build}, 2 workers", f"{build}, 1 worker", "7: CPU with 2 workers by 1", 1.05)


def case_8(bench):
    """Many keys and few"""
    many, few = f", {whole(bench.given.keys)} keys", ", 10 keys"
    bench.start([], suffix=many)
    bench.start([], suffix=few, keys=10)
    table = bench.interleaved()
    bench.cost_table("64 connections, as fast as it goes", table)
    for build in bench.builds():
        bench.mark_within(table, "cpu", build + many, build + few, "8: CPU with many keys by few", 1.10)


def case_9(bench):
    """Idle connections"""
    connections = min(10_000, bench.stage.files - 2_000)
    bench.start([proxies.nginx, proxies.haproxy])
    rows = []
    for name, proxy in bench.running.items():
        proxy.go_on()
        before = proxy.process.resident()
        ask = {**proxy.ask, **bench.right_answer(proxy), "connections": connections, "count": connections}
        load = bench.stage.tool.start("load", bench.stage.near, stdin=subprocess.PIPE, hold="yes", **ask)
        seen = json.loads(load.popen.stdout.readline() or "{}")
        # Whoever gives memory back once a client rests has this long to do so.
        time.sleep(1)
        after = proxy.process.resident()
        load.popen.communicate()
        load.stop()
        proxy.hold()
        if seen.get("requests") != connections or seen["errors"] or seen["other_status"]:
            bench.note(f"**{name}**: {seen}")
            continue
        kilobytes = (after - before) / connections / 1000
        rows.append([name, whole(connections), mebibytes(before), mebibytes(after), f"{kilobytes:.2f}"])
        if name in bench.builds():
            bench.mark(f"9: memory a connection after its first request, {name}", kilobytes, most=8, unit="kB")
    bench.table(
        "Each connection has asked once and waits; a second after the last answer",
        ["proxy", "connections", "memory before, MiB", "with them, MiB", "kB a connection"],
        rows,
    )


def case_10(bench):
    """A reload in the middle of the load"""
    both = bench.stage.near | bench.stage.far
    bench.note(
        "At 5 000 requests a second. On one core the reload and the only worker share it; on two they share both with load "
        "and upstream. p99 in µs, over the seconds before the reload and over those that it took."
    )
    rows = []
    for build in bench.builds():
        for place, cores in (("one core", bench.stage.far), ("two cores", both)):
            bench.start([], suffix=f", {place}", cores=cores, only=build)
            proxy = bench.running[f"{build}, {place}"]
            for change in (reload.one_more, reload.all_changed):
                seen = [reload.under_load(bench, proxy, change, at) for at in range(bench.given.rounds)]
                ratios = [one["during"] / one["before"] for one in seen]
                rows.append(
                    [proxy.name, change.__doc__, f"{middle([one['took'] for one in seen]):.2f}"]
                    + [whole(middle([one[part] for one in seen])) for part in ("before", "during")]
                    + [ratio(ratios)]
                )
                what = f"10: p99 during a reload by before it, {change.__doc__}, {proxy.name}"
                bench.mark(what, middle(ratios), 1.5)
            bench.stop()
    bench.table("Medians", ["proxy", "change", "reload took, s", "p99 before", "p99 during", "during by before"], rows)


CASES = {
    1: case_1,
    2: case_2,
    3: case_3,
    4: case_4,
    5: case_5,
    6: case_6,
    7: case_7,
    8: case_8,
    9: case_9,
    10: case_10,
}
