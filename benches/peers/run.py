#!/usr/bin/env python3
"""Compares keygate with other proxies on this machine: `bash benches/peers/run` installs what this needs and starts it.

Each case starts its proxies, asks each for the same in turn, several rounds of that, and reports medians. Only one
proxy at a time may run: the others are held (SIGSTOP). The proxy has one core for itself, load and upstream the other.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import cases
import measure
import proxies
import report

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="like 1,3,7; every case where not given")
    parser.add_argument("--peers", default="", help="like keygate,nginx; every proxy where not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run of the load")
    parser.add_argument("--keys", type=int, default=1_000_000, help="in keygate's table; the others have 100 000")
    parser.add_argument(
        "--keygate",
        action="append",
        default=[],
        metavar="[LABEL=]PATH",
        help="a build of keygate; several are compared",
    )
    parser.add_argument("--headers", choices=["library", "few"], default="library", help="what a request carries")
    parser.add_argument(
        "--counts",
        choices=["also", "only", "no"],
        help="instructions and system calls, which need no quiet machine, in cases 1 to 4; also, or no with --quick",
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, and nothing is written")
    parser.add_argument("--out", type=Path, help="the file of results, else benches/peers/RESULTS.md")
    parser.add_argument("--tool", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--packages", type=Path, required=True, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.counts = given.counts or ("no" if given.quick else "also")
    if given.quick:
        given.rounds, given.seconds = min(given.rounds, 2), min(given.seconds, 1.0)
    elif not given.out and given.counts != "only":
        given.out = HERE / "RESULTS.md"
    return given


def room_for_files():
    """Memory where there is enough, so that no disk is written to while something is measured."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30:
        return memory
    return None


def main():
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="keygate-peers-", dir=room_for_files()))
    begin = time.monotonic()
    try:
        results = run(given, folder)
    finally:
        measure.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    report.to_json(results, ROOT / "target" / "peers" / "last.json")
    print(f"{time.monotonic() - begin:.0f} s in all")


def run(given, folder):
    cores = sorted(measure.allowed_cores())
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the proxy, one for load and upstream")
    near, far = {cores[0]}, {cores[1]}
    measure.pin_self(near)
    files = measure.allow_files()
    tool = measure.Tool(given.tool, folder)
    stage = proxies.Stage(folder, tool, given.packages, far, near, files)
    wanted = [int(case) for case in given.cases.split(",") if case] or sorted(cases.CASES)
    results = []
    for number in wanted:
        bench = cases.Bench(stage, given, number)
        print(f"\n=== case {number}: {cases.CASES[number].__doc__.splitlines()[0]}", flush=True)
        try:
            cases.CASES[number](bench)
        except measure.Fault as fault:
            bench.note(f"**Broken off**: {fault}")
        finally:
            bench.stop()
        results.append(bench.result())
        print(report.section(results[-1]), flush=True)
        # At once, so that whoever interrupts a long run keeps what there is.
        if given.out:
            report.write(given.out, results[-1:], given)
    return results


if __name__ == "__main__":
    main()
