"""The load of HTTP/2: nghttp2's h2load, which many compare servers with. It checks the status of each answer; the
length of all of them together is checked here."""

import re
import resource
import subprocess

from measure import Fault

LIBRARY = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "user-agent": "OpenAI/Python 2.54.0",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.54.0",
    "x-stainless-os": "Linux",
    "x-stainless-arch": "x64",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
    "x-stainless-async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}


def load(stage, proxy, count, headers):
    """So many requests over 8 connections of 8 streams each; the same figures as the tool's load has."""
    body = stage.folder / "body.json"
    if not body.exists():
        body.write_bytes(stage.tool.run("body", stage.near, bytes=2048))
    # A client has one key, and HTTP/2 sends it once a connection.
    token = proxy.ask["tokens"].open().readline().strip()
    sent = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    sent |= LIBRARY if headers == "library" else {}
    command = ["h2load", "-n", count, "-c", 8, "-m", 8, "-t", 1, "-d", body]
    for name, value in sent.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"{proxy.ask['url']}/v1/chat/completions".replace("127.0.0.1", "localhost"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = done.stdout
    if "Application protocol: h2" not in told:
        raise Fault(f"h2load did not speak HTTP/2: {told[-2000:]}{done.stderr[-1000:]}")
    seconds, unit = re.search(r"finished in ([\d.]+)(us|ms|s|m)", told).groups()
    good = int(re.search(r"status codes: (\d+) 2xx", told)[1])
    bytes_ = int(re.search(r"\((\d+)\) data", told)[1])
    length = stage.answer_length()
    if good != count or bytes_ != count * length:
        raise Fault(f"wrong answers over HTTP/2: {told[-2000:]}")
    return {
        "requests": count,
        "seconds": float(seconds) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[unit],
        "cpu_us": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6,
    }
