"""A reload of the whole key table while requests come in at a steady rate."""

import json
import secrets
import subprocess
import time

from measure import Fault

RATE = 5000
BEFORE = 2.5
MOST = 60


def one_more(text):
    """one key more"""
    return text + key(secrets.token_hex(11))


def all_changed(text):
    """every key changed"""
    old, new = ('"name":"key ', '"name":"renamed ') if '"name":"key ' in text else ('"name":"renamed ', '"name":"key ')
    return text.replace(old, new)


def key(number):
    record = {
        "id": f"key_{number}",
        "name": "added",
        "hash": f"blake3:{secrets.token_hex(32)}",
        "model_access": {"mode": "all"},
        "created_at": "2026-11-22T10:00:00Z",
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def under_load(bench, proxy, change, at):
    """The p99 before and during one reload, and how long that took."""
    table = proxy.folder / "keys.jsonl"
    table.write_text(change(table.read_text()))
    latencies = bench.stage.folder / f"latencies-{at}"
    proxy.go_on()
    time.sleep(0.2)
    ask = {**proxy.ask, **bench.right_answer(proxy), "rate": RATE, "headers": bench.given.headers}
    ask |= {"seconds": MOST, "open-end": "yes", "latencies": latencies}
    load = bench.stage.tool.start("load", bench.stage.near, stdin=subprocess.PIPE, **ask)
    time.sleep(BEFORE)
    start = time.time()
    command = [proxy.process.popen.args[0], "reload", "--socket", str(proxy.folder / "keygate.sock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    end = time.time()
    time.sleep(0.2)
    out, _ = load.popen.communicate()
    load.stop()
    proxy.hold()
    proxy.tidy()
    seen = json.loads(out)
    if done.returncode or seen["errors"] or seen["other_status"] or seen["other_length"]:
        raise Fault(f"reload: {done.stdout}{done.stderr} {seen}")
    before, during = [], []
    for line in latencies.read_text().splitlines():
        asked, took = (int(part) for part in line.split())
        if asked < start * 1e6 - took:
            before.append(took)
        elif asked <= end * 1e6:
            during.append(took)
    latencies.unlink()
    # The first connections are not part of it.
    before = before[RATE // 2 :]
    return {"before": p99(before), "during": p99(during), "took": end - start}


def p99(values):
    if not values:
        raise Fault("reload: no request was answered in one of the two stretches; the machine is too busy to measure")
    return sorted(values)[int(len(values) * 0.99)]
