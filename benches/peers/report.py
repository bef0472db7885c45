"""Tables as Markdown, and the file of results: sections that were measured are written anew, the others stay."""

import json
import platform
import re
import subprocess
import time
from pathlib import Path

LOG = "## Log of what was tried"


def to_json(results, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1))


def section(result):
    parts = [f"## Case {result['number']}: {result['title']}"]
    parts += [stamp(result), *result["notes"]]
    for table in result["tables"]:
        parts.append(f"{table['caption']}:")
        lines = [table["header"], ["---"] * len(table["header"]), *table["rows"]]
        parts.append("\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines))
    if result["marks"]:
        parts.append("\n".join(mark_line(mark) for mark in result["marks"]))
    return "\n\n".join(parts) + "\n"


def mark_line(mark):
    if mark["least"] is not None:
        reached, bound = mark["value"] >= mark["least"], f"at least {mark['least']:g}"
    else:
        reached, bound = mark["value"] <= mark["most"], f"at most {mark['most']:g}"
    verdict = "reached" if reached else "**not reached**"
    return f"- {mark['what']}: {mark['value']:.2f} {mark['unit']}, {bound}: {verdict}"


def write(file, results, given):
    old = sections(file.read_text()) if file.exists() else {}
    log = old.pop(LOG, f"{LOG}\n\nWritten by hand; `run` leaves this section as it is.\n")
    cases = {heading: text for heading, text in old.items() if heading.startswith("## Case ")}
    for result in results:
        number = f"## Case {result['number']}:"
        cases = {heading: text for heading, text in cases.items() if not heading.startswith(number)}
        text = section(result)
        cases[text.partition("\n")[0]] = text
    ordered = sorted(cases, key=lambda heading: int(re.match(r"## Case (\d+)", heading)[1]))
    body = "\n".join(cases[heading].rstrip() + "\n" for heading in ordered)
    file.write_text(f"{head(given)}\n{body}\n{log.rstrip()}\n")


def sections(text):
    parts = re.split(r"(?m)^(?=## )", text)
    return {part.splitlines()[0]: part for part in parts if part.startswith("## ")}


def stamp(result):
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    told = f"{result['rounds']} rounds of {result['seconds']:g} s, {when} UTC."
    if result["others"]:
        least, middle, most = result["others"]
        told += f" Other programs used {least:.0%} to {most:.0%} of the machine meanwhile, mostly {middle:.0%}."
    return told


def head(given):
    keys = f"{given.keys:,}".replace(",", " ")
    return f"""# keygate beside other proxies

Written by `bash benches/peers/run`; the proxies' configs lie beside this file and say why they are as they are.

Medians of interleaved rounds, one worker pinned to one core, load and upstream on the other, every other proxy held
meanwhile. CPU is user and system time of the proxy's threads over a run by the requests of that run; load, upstream and
their share of the kernel are not in it. "× better rival" is the median of the rounds' ratios to the better of nginx and
HAProxy *in the same round*, with the smallest and the largest. keygate checks, counts and logs each request; nginx and
HAProxy look the key up and do no more. Each request has another of the keys, and the headers that OpenAI's Python
library sends (`--headers few` leaves those out).

Machine: {machine()}.
Versions: {'; '.join(versions(given))}.
Keys: {keys} in keygate, 100 000 in nginx and HAProxy, 1 000 in Envoy. Headers: {given.headers}.
"""


def machine():
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    cores = len(re.findall(r"(?m)^processor", info))
    return f"{cores} × {model[1] if model else platform.machine()}, Linux {platform.release()}"


def versions(given):
    told = []
    for build in given.keygate:
        label, _, path = build.rpartition("=")
        told.append(f"{first_line([path, '--version'])} {label}".strip())
    told += [first_line(["nginx", "-v"]), first_line(["haproxy", "-v"])]
    # What is installed from packages is pinned there.
    here = Path(__file__).parent
    told += re.findall(r"(?m)^[^#\s].*==.*$", (here / "requirements.txt").read_text())
    pinned = json.loads((here / "package.json").read_text())["dependencies"]
    told += [f"{name}=={version}" for name, version in pinned.items()]
    commit = first_line(["git", "-C", here, "describe", "--always", "--dirty"])
    return [version for version in told if version] + ([f"work tree at {commit}"] if commit else [])


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    return next(iter((done.stdout + done.stderr).strip().splitlines()), None)
