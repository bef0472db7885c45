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
        parts.append("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines))
    if result["marks"]:
        parts.append("\n".join(mark_line(mark) for mark in result["marks"]))
    return "\n\n".join(parts) + "\n"


def mark_line(mark):
    if mark["least"] is not None:
        reached, bound = mark["value"] >= mark["least"], f"at least {mark['least']:g}"
    else:
        reached, bound = mark["value"] <= mark["most"], f"at most {mark['most']:g}"
    return f"- {mark['what']}: {mark['value']:.2f} {mark['unit']}, {bound}: {'reached' if reached else '**not reached**'}"


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
    lines = [
        "# keygate beside other proxies",
        "",
        "Written by `bash benches/peers/run`; the proxies' configs lie beside this file and say why they are as they are.",
        "",
        "Medians of interleaved rounds, one worker pinned to one core, load and upstream on the other; CPU is user and",
        "system time of the proxy's threads, divided by what was asked. \"× better rival\" is the median of the rounds'",
        "ratios to the better of nginx and HAProxy *in the same round*, with the smallest and largest: noise of the machine",
        "hits both. keygate checks, counts and logs every request; nginx and HAProxy only look the key up.",
        "",
        f"Machine: {machine()}.",
        f"Versions: {'; '.join(versions(given))}.",
        f"Keys: {given.keys:,} in keygate, 100 000 in nginx and HAProxy, 1 000 in Envoy. Headers: {given.headers}.".replace(",", " ", 1),
        "",
    ]
    return "\n".join(lines)


def machine():
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    cores = len(re.findall(r"(?m)^processor", info))
    return f"{cores} × {model[1] if model else platform.machine()}, Linux {platform.release()}"


def versions(given):
    asked = [[build.rpartition("=")[2], "--version"] for build in given.keygate]
    asked += [["nginx", "-v"], ["haproxy", "-v"]]
    return [told for told in (first_line(command) for command in asked) if told]


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return None
    return (done.stdout + done.stderr).strip().splitlines()[0]
