"""Processes, what they cost, and what many rounds of that come to. Knows nothing of proxies or cases."""

import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Fault(Exception):
    """What makes a measurement worthless."""


class Process:
    """A process that this run started, and those that it started; ended by its own number."""

    alive: list["Process"] = []

    def __init__(self, command, cores, log, environment=None, **pipes):
        self.log = log
        with open(log, "ab") as file:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=pipes.get("stdin", subprocess.DEVNULL),
                stdout=pipes.get("stdout", file),
                stderr=file,
                env={**os.environ, **(environment or {})},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
                # So that Ctrl-C reaches this program alone, which then ends the others.
                start_new_session=True,
            )
        self.pid = self.popen.pid
        Process.alive.append(self)

    def family(self):
        """Its number and those of all its descendants."""
        found, at = [self.pid], 0
        while at < len(found):
            for task in tasks(found[at]):
                try:
                    found += [int(pid) for pid in (task / "children").read_text().split()]
                except OSError:
                    pass
            at += 1
        return found

    def signal(self, number):
        for pid in self.family():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def stop(self):
        if self.popen.poll() is None:
            self.signal(signal.SIGCONT)
            family = self.family()
            self.popen.terminate()
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
            # Workers go with their master; one that does not is still a process of this run's.
            for pid in family[1:]:
                if parent_of(pid) in (1, *family):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        if self in Process.alive:
            Process.alive.remove(self)

    def tail(self):
        with open(self.log, "rb") as file:
            return file.read()[-2000:].decode(errors="replace")

    def resident(self):
        """Bytes of memory that are its own or shared with its family, counted once for each process."""
        total = 0
        for pid in self.family():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            except OSError:
                pass
        return total


def stop_all():
    for process in list(Process.alive):
        process.stop()


def tasks(pid):
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


class Cpu:
    """What a family of processes has used of the processors so far, in microseconds.

    The scheduler's account of each task (schedstat) is exact to the nanosecond but goes with the task; the process's
    account (stat) keeps what ended tasks used and tells user from system, in ticks of 10 ms. So the first is the sum
    wherever no task ended in between, the second gives the shares.
    """

    def __init__(self, process):
        self.tasks, self.user, self.system = {}, 0, 0
        for pid in process.family():
            for task in tasks(pid):
                try:
                    self.tasks[task] = int((task / "schedstat").read_text().split()[0]) / 1000
                except OSError:
                    pass
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            self.user += int(fields[11]) * 1e6 / TICK
            self.system += int(fields[12]) * 1e6 / TICK

    def since(self, earlier):
        user, system = self.user - earlier.user, self.system - earlier.system
        total = user + system
        if all(task in self.tasks for task in earlier.tasks):
            total = sum(self.tasks.values()) - sum(earlier.tasks.values())
        share = user / (user + system) if user + system else 0.5
        return {"total": total, "user": total * share, "system": total * (1 - share)}


class Tool:
    """The compiled half: load, upstream, keys."""

    def __init__(self, path, folder):
        self.path, self.log = path, folder / "tool.log"

    def run(self, command, cores, **options):
        process = self.start(command, cores, **options)
        out, _ = process.popen.communicate(timeout=300)
        Process.alive.remove(process)
        if process.popen.returncode:
            raise Fault(f"{command} {options}: {process.tail()}")
        return out

    def start(self, command, cores, stdin=subprocess.DEVNULL, **options):
        words = [self.path, command]
        for name, value in options.items():
            if value is not None:
                words += [f"--{name}", value]
        return Process(words, cores, self.log, stdin=stdin, stdout=subprocess.PIPE)

    def load(self, cores, may_fail=False, **options):
        seen = json.loads(self.run("load", cores, **options))
        wrong = seen["errors"] + seen["other_status"] + seen["other_length"]
        if not may_fail and (wrong > seen["requests"] / 10000 or not seen["requests"]):
            raise Fault(f"wrong answers: {seen}")
        return seen


def measure(process, load):
    """One run of a load: what the proxy and the load used, and what the load saw."""
    watch = Watch(process) if process else None
    before = Cpu(process) if process else None
    seen = load()
    figures = {
        "rate": seen["requests"] / seen["seconds"],
        "p50": seen.get("p50_us"),
        "p99": seen.get("p99_us"),
        "load_cpu": seen["cpu_us"] / seen["requests"],
        "requests": seen["requests"],
        "connects": seen.get("connects"),
    }
    if process:
        used = Cpu(process).since(before)
        figures |= {
            "cpu": used["total"] / seen["requests"],
            "user": used["user"] / seen["requests"],
            "system": used["system"] / seen["requests"],
            "resident": watch.stop(),
        }
    return figures


class MachineTime:
    """What the processors did from here on, and how much of that was nobody's who is measured."""

    def __init__(self, upstream):
        self.upstream, self.before, self.upstream_before = upstream, busy(), Cpu(upstream)

    def of_others(self, figures):
        """Their share of all processors, between 0 and 1."""
        used, all_ = (now - then for now, then in zip(busy(), self.before, strict=True))
        a_request = figures["load_cpu"] + (figures.get("cpu") or 0)
        own = figures["requests"] * a_request + Cpu(self.upstream).since(self.upstream_before)["total"]
        return max(0.0, (used * 1e6 / TICK - own) / (all_ * 1e6 / TICK))


def busy():
    """Ticks that all processors worked, and all their ticks."""
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


class Watch:
    """The most memory that a process had, looked at twice a second."""

    def __init__(self, process):
        self.most, self.process, self.over = process.resident(), process, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        while not self.over.wait(0.5):
            self.most = max(self.most, self.process.resident())

    def stop(self):
        self.over.set()
        self.thread.join()
        return max(self.most, self.process.resident())


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


class Rounds:
    """Figures of several contestants, taken in turn, so that a noisy minute hits all of them."""

    def __init__(self, contestants):
        self.of = {name: [] for name in contestants}

    def add(self, name, figures):
        self.of[name].append(figures)

    def values(self, name, figure):
        return [figures.get(figure) for figures in self.of[name]]

    def median(self, name, figure):
        return median(self.values(name, figure))

    def ratios(self, name, figure, others):
        """For each round, its figure by the smallest of the others' in that round."""
        ratios = []
        for at, figures in enumerate(self.of[name]):
            rivals = [self.of[other][at].get(figure) for other in others if at < len(self.of.get(other, []))]
            rivals = [rival for rival in rivals if rival]
            if rivals and figures.get(figure):
                ratios.append(figures[figure] / min(rivals))
        return ratios


def allowed_cores():
    return os.sched_getaffinity(0)


def pin_self(cores):
    os.sched_setaffinity(0, cores)


def allow_files(wanted=70_000):
    """So many open files for this program and all that it starts, or as many as may be had."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, most)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def wait_for_port(port, process, seconds=60):
    def listens():
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens, process, seconds)


def wait_until_ready(path, process, seconds):
    """Until keygate's admin socket says so."""

    def is_ready():
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            if probe.connect_ex(str(path)):
                return False
            probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return probe.recv(100).startswith(b"HTTP/1.1 200")

    wait_for(is_ready, process, seconds)


def wait_for(condition, process, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.popen.poll() is not None:
            raise Fault(f"{process.popen.args[0]} ended: {process.tail()}")
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise Fault(f"{process.popen.args[0]} is not ready: {process.tail()}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
