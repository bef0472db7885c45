"""How each proxy is started. The config files beside this one say what it does and what it does not."""

import json
import os
import shutil
import signal
from pathlib import Path

from measure import Fault, Process, free_port, wait_for_port, wait_until_ready

HERE = Path(__file__).parent
PEER_KEYS = 100_000
ENVOY_KEYS = 1_000


class Stage:
    """What all proxies of a run share: folder, keys, certificate, upstream."""

    def __init__(self, folder, tool, packages, far, near, files):
        self.folder, self.tool, self.packages = folder, tool, packages
        # How many files a process may open.
        self.files = files
        # The core of the proxy, and that of load and upstream.
        self.far, self.near = far, near
        self.made = {}
        self.started = 0
        self.upstream_process = tool.start("upstream", near)
        self.upstream = int(self.upstream_process.popen.stdout.readline())
        self.check_load()

    def check_load(self):
        """The load must see what is wrong, or nothing that it says is worth anything."""
        ask = {"url": f"http://127.0.0.1:{self.upstream}", "token": "none", "count": 10, "connections": 2}
        for wrong, told in (({"status": 401}, "other_status"), ({"length": 1}, "other_length")):
            if self.tool.load(self.near, may_fail=True, **ask, **wrong)[told] != 10:
                raise Fault(f"the load does not notice a wrong answer: {told}")

    def keys(self, count):
        """The folder with key table and tokens of so many keys, and the lists made from it."""
        if count not in self.made:
            folder = self.folder / f"keys-{count}"
            folder.mkdir()
            self.tool.run("keys", self.near, count=count, folder=folder)
            tokens = (folder / "tokens.txt").read_text().split()
            if count <= PEER_KEYS:
                (folder / "nginx.map").write_text("".join(f'"Bearer {token}" 1;\n' for token in tokens))
                (folder / "haproxy.acl").write_text("".join(f"Bearer {token}\n" for token in tokens))
            self.made[count] = folder
        return self.made[count]

    def certificate(self):
        if "certificate" not in self.made:
            folder = self.folder / "certificate"
            folder.mkdir()
            self.tool.run("certificate", self.near, folder=folder)
            self.made["certificate"] = folder
        return self.made["certificate"]

    def answer_length(self, **ask):
        """As the upstream itself gives it."""
        made = f"answer {ask}"
        if made not in self.made:
            url = f"http://127.0.0.1:{self.upstream}"
            self.made[made] = self.tool.load(self.near, url=url, token="none", count=1, connections=1, **ask)["bytes"]
        return self.made[made]

    def own_folder(self, name):
        self.started += 1
        folder = self.folder / f"{name}-{self.started}"
        folder.mkdir()
        return folder

    def fill(self, template, folder, **values):
        """The config of this template with its @PLACES@ filled."""
        text = (HERE / template).read_text()
        for name, value in {"FOLDER": folder, "UPSTREAM": self.upstream, **values}.items():
            text = text.replace(f"@{name}@", str(value))
        file = folder / template
        file.write_text(text)
        return file


class Proxy:
    """One that runs. `url` is where it listens, `ask` what the load is told besides."""

    def __init__(self, name, process, port, tokens=None, token=None, tls=None, folder=None):
        self.name, self.process, self.port, self.folder = name, process, port, folder
        # Whether it asks for no key; whether answers pass byte for byte; whether it takes milliseconds a request.
        self.is_open, self.passes_bytes, self.is_slow = False, True, False
        self.refusal = 401
        self.ask = {"url": f"{'https' if tls else 'http'}://127.0.0.1:{port}"}
        if tokens:
            self.ask["tokens"] = tokens
        else:
            self.ask["token"] = token or "none"
        if tls:
            self.ask["ca"] = tls / "ca.pem"

    def hold(self):
        """Keeps it from doing anything while another one is measured."""
        if self.process:
            self.process.signal(signal.SIGSTOP)

    def go_on(self):
        if self.process:
            self.process.signal(signal.SIGCONT)

    def tidy(self):
        """Its log has been written; nobody reads it."""
        if self.process:
            os.truncate(self.process.log, 0)

    def stop(self):
        if self.process:
            self.process.stop()


def direct(stage, name="direct", **_):
    """No proxy at all: what load and upstream cost alone."""
    return Proxy(name, None, stage.upstream, token="none")


# Limits that are counted and never reached.
GENEROUS = """[keys.default_limits]
requests_per_minute = 1000000000
tokens_per_minute = 1000000000000
concurrent_requests = 1000000"""


def keygate(stage, name="keygate", binary=None, keys=1_000_000, workers=1, tls=False, cores=None, under=(), usage=True, limited=False):
    folder, material = stage.own_folder("keygate"), stage.keys(keys)
    port = free_port()
    certificate = stage.certificate() if tls else None
    # A copy, since reloads change it.
    table = folder / "keys.jsonl"
    shutil.copy(material / "keys.jsonl", table)
    # Without usage, no stream is asked for its usage and nothing is recorded; what the upstream says is still counted.
    without = 'usage = "read"\n[database]\nurl = ""'
    config = stage.fill(
        "keygate.toml",
        folder,
        PORT=port,
        WORKERS=workers,
        KEYS=table,
        USAGE="" if usage else without,
        LIMITS=GENEROUS if limited else "",
        TLS=f'[tls]\ncertificate = "{certificate}/tls.crt"\nprivate_key = "{certificate}/tls.key"' if tls else "",
    )
    command = [*under, binary, "serve", "--config", config]
    process = Process(command, cores or stage.far, folder / "access.log")
    # It listens from the start, and serves once it has read its keys.
    wait_until_ready(folder / "keygate.sock", process, 300)
    return Proxy(name, process, port, tokens=material / "tokens.txt", tls=certificate, folder=folder)


def nginx(stage, name="nginx", workers=1, tls=False, cores=None, under=(), **_):
    folder, material = stage.own_folder("nginx"), stage.keys(PEER_KEYS)
    port = free_port()
    certificate = stage.certificate() if tls else None
    secure = (
        f"listen 127.0.0.1:{port} ssl http2 backlog=4096;\n        ssl_certificate {certificate}/tls.crt;\n"
        f"        ssl_certificate_key {certificate}/tls.key;\n        ssl_protocols TLSv1.2 TLSv1.3;\n"
        "        http2_max_concurrent_streams 128;"
        if tls
        else f"listen 127.0.0.1:{port} backlog=4096;"
    )
    config = stage.fill(
        "nginx.conf",
        folder,
        LISTEN=secure,
        WORKERS=workers,
        KEYS=material / "nginx.map",
        # Under callgrind it is one process.
        MASTER="off" if under else "on",
        USER="user root;" if os.geteuid() == 0 else "",
    )
    process = Process([*under, "nginx", "-p", folder, "-c", config], cores or stage.far, folder / "nginx.log")
    wait_for_port(port, process, 300)
    return Proxy(name, process, port, tokens=material / "tokens.txt", tls=certificate, folder=folder)


def haproxy(stage, name="haproxy", workers=1, tls=False, cores=None, under=(), **_):
    folder, material = stage.own_folder("haproxy"), stage.keys(PEER_KEYS)
    port = free_port()
    certificate = stage.certificate() if tls else None
    config = stage.fill(
        "haproxy.cfg",
        folder,
        PORT=port,
        WORKERS=workers,
        # Two files for each connection, and some for itself.
        CONNECTIONS=(stage.files - 100) // 2,
        KEYS=material / "haproxy.acl",
        TLS=f"ssl crt {certificate}/tls.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2" if tls else "",
    )
    process = Process([*under, "haproxy", "-db", "-f", config], cores or stage.far, folder / "haproxy.log")
    wait_for_port(port, process, 300)
    return Proxy(name, process, port, tokens=material / "tokens.txt", tls=certificate, folder=folder)


def envoy(stage, name="envoy", **_):
    folder, material = stage.own_folder("envoy"), stage.keys(ENVOY_KEYS)
    port = free_port()
    tokens = (material / "tokens.txt").read_text().split()
    keys = ", ".join(json.dumps({"key": token, "client": f"client-{at}"}) for at, token in enumerate(tokens))
    config = stage.fill("envoy.yaml", folder, PORT=port, KEYS=keys)
    [binary] = stage.packages.glob("python/lib/python3*/site-packages/envoy/_bin/envoy")
    command = [binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    process = Process(command, stage.far, folder / "envoy.log")
    wait_for_port(port, process)
    return Proxy(name, process, port, tokens=material / "tokens.txt", folder=folder)


def litellm(stage, name="litellm", **_):
    folder, port, token = stage.own_folder("litellm"), free_port(), "sk-1234567890"
    config = stage.fill("litellm.yaml", folder, TOKEN=token)
    command = [stage.packages / "python/bin/litellm", "--config", config]
    command += ["--host", "127.0.0.1", "--port", port, "--num_workers", "1"]
    # Its list of prices comes with it; it would ask the network for a newer one.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1"}
    process = Process(command, stage.far, folder / "litellm.log", environment)
    wait_for_port(port, process, 180)
    proxy = Proxy(name, process, port, token=token, folder=folder)
    # To a key that it can't look up, for want of a database, it says 400.
    proxy.passes_bytes, proxy.is_slow, proxy.refusal = False, True, 400
    return proxy


def portkey(stage, name="portkey", **_):
    """Portkey's gateway: it asks for no key, and the client says where the request goes."""
    folder, port = stage.own_folder("portkey"), free_port()
    start = stage.packages / "node/node_modules/@portkey-ai/gateway/build/start-server.js"
    process = Process(["node", start, f"--port={port}", "--headless"], stage.far, folder / "portkey.log")
    wait_for_port(port, process)
    proxy = Proxy(name, process, port, token="none", folder=folder)
    proxy.ask["more"] = f"x-portkey-provider: openai|x-portkey-custom-host: http://127.0.0.1:{stage.upstream}/v1"
    proxy.passes_bytes, proxy.is_slow, proxy.is_open = False, True, True
    return proxy
