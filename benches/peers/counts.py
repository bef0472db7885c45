"""What does not move with the neighbours' noise: instructions in user space, and system calls, a request."""

import re
import signal
import time

import proxies
from measure import Fault, Process

# Under callgrind a table is read fifty times slower; its size is case 8's business.
KEYS = 10_000
FEW, MANY = 500, 2500


def table(bench):
    makers = [maker for maker in (proxies.nginx, proxies.haproxy) if bench.wants(maker.__name__)]
    contestants = [
        (name, proxies.keygate, {"binary": path, "keys": KEYS}) for name, path in bench.builds().items() if bench.wants(name)
    ] + [(maker.__name__, maker, {}) for maker in makers]
    rows = []
    for name, maker, options in contestants:
        try:
            instructions = instructions_a_request(bench, maker, options)
            calls, parts = calls_a_request(bench, maker, options)
        except Fault as fault:
            bench.note(f"**{name} could not be counted**: {fault}")
            continue
        rows.append([name, f"{instructions:,.0f}".replace(",", " "), f"{calls:.2f}", parts])
    bench.table(
        f"Counted, 8 connections: instructions in user space (callgrind; {KEYS} keys in keygate) and system calls (strace)",
        ["proxy", "instructions a request", "system calls a request", "of them"],
        rows,
    )


def instructions_a_request(bench, maker, options):
    """Two runs of different length, one subtracted from the other, so that the start cancels out."""
    few, many = (instructions(bench, maker, options, count) for count in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def instructions(bench, maker, options, count):
    out = bench.stage.folder / "callgrind.out"
    under = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    proxy = maker(bench.stage, **options, under=under)
    ask = {**proxy.ask, **bench.right_answer(proxy), "connections": 8, "headers": bench.given.headers}
    bench.stage.tool.load(bench.stage.near, count=count, **ask)
    proxy.process.popen.terminate()
    proxy.process.popen.wait(60)
    proxy.stop()
    totals = re.search(r"(?m)^totals: (\d+)", out.read_text())
    out.unlink()
    if not totals:
        raise Fault("callgrind told no totals")
    return int(totals[1])


def calls_a_request(bench, maker, options):
    """System calls of all its threads while it is asked, from strace's table."""
    proxy = maker(bench.stage, **options)
    stage, out, count = bench.stage, bench.stage.folder / "strace.out", 4000
    ask = {**proxy.ask, **bench.right_answer(proxy), "connections": 8, "headers": bench.given.headers}
    stage.tool.load(stage.near, count=count, **ask)
    family = proxy.process.family()
    command = ["strace", "-f", "-c", "-o", out]
    for pid in family:
        command += ["-p", pid]
    strace = Process(command, stage.near, stage.folder / "strace.log")
    time.sleep(1)
    stage.tool.load(stage.near, count=count, **ask)
    strace.popen.send_signal(signal.SIGINT)
    strace.popen.wait(30)
    strace.stop()
    proxy.stop()
    calls = {}
    for line in out.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0][0].isdigit() and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3]) / count
    out.unlink()
    shown = sorted(calls.items(), key=lambda item: -item[1])
    return sum(calls.values()), ", ".join(f"{name} {share:.2f}" for name, share in shown if share >= 0.01)
