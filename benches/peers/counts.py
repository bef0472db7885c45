"""What does not move with the neighbours' noise: instructions in user space, and system calls, a request."""

import re
import signal
import time

import proxies
from measure import Fault, Process, tasks

# Under callgrind a table is read fifty times slower; its size is case 8's business.
KEYS = 10_000


def table(bench, unit="request", per=1, few=400, many=1600, **ask):
    """A row for each build of keygate and each rival, asked for this."""
    if bench.given.counts == "no":
        return
    makers = [maker for maker in (proxies.nginx, proxies.haproxy) if bench.wants(maker.__name__)]
    builds = {name: path for name, path in bench.builds().items() if bench.wants(name)}
    contestants = []
    for name, path in builds.items():
        keygate = {"binary": path, "keys": KEYS}
        without = {**keygate, "usage": False}
        contestants += [
            (name, proxies.keygate, keygate),
            (f"{name}, no usage", proxies.keygate, without),
            (f"{name}, no usage, limited keys", proxies.keygate, {**without, "limited": True}),
        ]
    contestants += [(maker.__name__, maker, {}) for maker in makers]
    ask = {"connections": 8, "headers": bench.given.headers, **ask}
    rows = []
    for name, maker, options in contestants:
        try:
            # Two runs of different length, one subtracted from the other, so that the start cancels out.
            short, long = (instructions(bench, maker, options, {**ask, "count": count}) for count in (few, many))
            calls = calls_of_it(bench, maker, options, {**ask, "count": many})
        except Fault as fault:
            bench.note(f"**{name} could not be counted**: {fault}")
            continue
        each = (long - short) / (many - few) / per
        shares = sorted(((count / many / per, call) for call, count in calls.items()), reverse=True)
        told = ", ".join(f"{call} {share:.2f}" for share, call in shares if share >= 0.01)
        rows.append([name, f"{each:,.0f}".replace(",", " "), f"{sum(share for share, _ in shares):.2f}", told])
    bench.table(
        f"Counted, 8 connections: instructions in user space (callgrind; {KEYS} keys in keygate), system calls (strace)",
        ["proxy", f"instructions a {unit}", f"system calls a {unit}", "of them"],
        rows,
    )


def asked(bench, proxy, ask):
    """What the load is told: the proxy's own, and this."""
    told = {**proxy.ask, **ask}
    if "status" not in ask:
        shape = {name: ask[name] for name in ("stream",) if name in ask}
        told |= bench.right_answer(proxy, **shape)
    bench.stage.tool.load(bench.stage.near, **told)


def instructions(bench, maker, options, ask):
    """All that a proxy executes from its start to its end."""
    out = bench.stage.folder / "callgrind.out"
    proxy = maker(bench.stage, **options, under=["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"])
    try:
        asked(bench, proxy, ask)
        proxy.process.popen.terminate()
        proxy.process.popen.wait(60)
    finally:
        proxy.stop()
    totals = re.search(r"(?m)^totals: (\d+)", out.read_text()) if out.exists() else None
    if not totals:
        raise Fault("callgrind told no totals")
    out.unlink()
    return int(totals[1])


def calls_of_it(bench, maker, options, ask):
    """System calls of all its threads while it is asked, from strace's table."""
    stage, out = bench.stage, bench.stage.folder / "strace.out"
    proxy = maker(stage, **options)
    try:
        # Connections to the upstream are there before anything is counted.
        asked(bench, proxy, ask)
        command = ["strace", "-f", "-c", "-o", out]
        for pid in proxy.process.family():
            command += ["-p", pid]
        strace = Process(command, stage.near, stage.folder / "strace.log")
        wait_until_traced(proxy.process)
        asked(bench, proxy, ask)
        strace.popen.send_signal(signal.SIGINT)
        strace.popen.wait(30)
        strace.stop()
    finally:
        proxy.stop()
    calls = {}
    for line in out.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    out.unlink()
    return calls


def wait_until_traced(process):
    """strace takes its tasks one after the other."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        states = [(task / "status").read_text() for pid in process.family() for task in tasks(pid)]
        if all(re.search(r"(?m)^TracerPid:\s*[1-9]", state) for state in states):
            return
        time.sleep(0.05)
    raise Fault("strace did not take every task")
