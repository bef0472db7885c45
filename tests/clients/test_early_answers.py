"""Real clients whose upload is refused before it was read: each reads its status, and none sees a broken connection."""

import asyncio
import functools
import os
import pathlib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp
import httpx
import pytest
import requests
import trustme

from processes import TARGET, Gateway

PROGRAMS = pathlib.Path(__file__).resolve().parent / "uploads"
COMPILED = TARGET / "test-env" / "uploads"  # tests/environment compiles them
UNKNOWN = "sk-nobody-has-made-this-key"
MEGABYTE = 1_000_000
# A race may be won by luck once.
TIMES = 3


@dataclass(frozen=True)
class Target:
    """Where a client sends its upload."""

    url: str
    authority: pathlib.Path


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Gateway]]:
    """A plain gateway and one with TLS, before an upstream that nothing may reach."""
    folder = tmp_path_factory.mktemp("early")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    server = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(folder / "tls.key")
    upstreams = [{"name": "none", "url": "http://127.0.0.1:9", "models": ["none"]}]
    gateways = {
        "plain": Gateway(folder / "plain", upstreams),
        "TLS": Gateway(folder / "tls", upstreams, (folder / "tls.crt", folder / "tls.key")),
    }
    for gateway in gateways.values():
        assert gateway.address
    yield gateways
    for gateway in gateways.values():
        gateway.end()


@pytest.fixture(params=["plain", "TLS"])
def gateway(request: pytest.FixtureRequest, gateways: dict[str, Gateway]) -> Gateway:
    return gateways[request.param]


@pytest.fixture
def target(gateway: Gateway) -> Target:
    return Target(f"{gateway.url}/v1/chat/completions", gateway.folder.parent / "authority.pem")


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def run(*command, environment: dict | None = None) -> int:
    """The status that a program prints; its standard error says what went wrong instead."""
    result = subprocess.run(
        [str(word) for word in command],
        env=os.environ | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stdout}{result.stderr}"
    return int(result.stdout)


def node_fetch(target: Target, token: str, length: int) -> int:
    trust = {"NODE_EXTRA_CA_CERTS": str(target.authority)}
    return run("node", PROGRAMS / "upload.mjs", target.url, token, length, environment=trust)


def go_net_http(target: Target, token: str, length: int) -> int:
    return run(COMPILED / "upload-go", target.url, token, length, target.authority)


def java_http_client(version: str, target: Target, token: str, length: int) -> int:
    return run("java", "-cp", COMPILED, "Upload", target.url, token, length, target.authority, version)


def curl(options: list[str], target: Target, token: str, length: int) -> int:
    body = target.authority.parent / f"body-{length}"
    body.write_bytes(b" " * length)
    lines = [word for name, value in headers(token).items() for word in ("-H", f"{name}: {value}")]
    upload = ["--data-binary", f"@{body}", "--cacert", target.authority]
    shown = ["-sS", "-o", "/dev/null", "-w", "%{http_code}"]
    return run("curl", *shown, *options, *lines, *upload, target.url)


def python_httpx(http2: bool, target: Target, token: str, length: int) -> int:
    trust = ssl.create_default_context(cafile=str(target.authority))
    with httpx.Client(verify=trust, http1=not http2, http2=http2, timeout=30) as client:
        return client.post(target.url, headers=headers(token), content=b" " * length).status_code


def python_requests(target: Target, token: str, length: int) -> int:
    verify = str(target.authority)
    return requests.post(target.url, headers=headers(token), data=b" " * length, verify=verify, timeout=30).status_code


def python_aiohttp(target: Target, token: str, length: int) -> int:
    trust = ssl.create_default_context(cafile=str(target.authority))

    async def post() -> int:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client:
            async with client.post(target.url, headers=headers(token), data=b" " * length, ssl=trust) as answer:
                await answer.read()
                return answer.status

    return asyncio.run(post())


CLIENTS: dict[str, Callable[[Target, str, int], int]] = {
    "Node's fetch": node_fetch,
    "Go's net/http": go_net_http,
    "Java's HttpClient": functools.partial(java_http_client, "HTTP_2"),
    "Java's HttpClient with HTTP/1.1": functools.partial(java_http_client, "HTTP_1_1"),
    "curl": functools.partial(curl, []),
    "curl with HTTP/1.1": functools.partial(curl, ["--http1.1"]),
    "curl without Expect": functools.partial(curl, ["--http1.1", "-H", "Expect:"]),
    "curl with HTTP/2": functools.partial(curl, ["--http2-prior-knowledge"]),
    "httpx": functools.partial(python_httpx, False),
    "httpx with HTTP/2": functools.partial(python_httpx, True),
    "requests": python_requests,
    "aiohttp": python_aiohttp,
}

# They send all of a body before they look for an answer, and HTTP/2 gives them no window past the limit.
NEVER_LOOK = {"httpx with HTTP/2", "Java's HttpClient"}

each_client = pytest.mark.parametrize("client", CLIENTS)


@each_client
def test_a_client_whose_key_is_unknown_reads_401_after_an_upload_of_5_mb(client: str, target: Target):
    statuses = [CLIENTS[client](target, UNKNOWN, 5 * MEGABYTE) for _ in range(TIMES)]
    assert statuses == [401] * TIMES


@each_client
def test_a_client_whose_upload_is_over_the_limit_reads_413(client: str, target: Target, gateway: Gateway):
    if client in NEVER_LOOK and (client.endswith("HTTP/2") or target.url.startswith("https:")):
        pytest.skip("it sends all of its body before it looks for an answer")
    key = gateway.key()
    # The limit is 32 MiB, and as much is thrown away. What comes on top stays in the systems' buffers until the client or the
    # gateway closes; requests sends on until then, and over TLS it takes a close in that for a failure of TLS.
    stops = client == "requests" and target.url.startswith("https:")
    assert CLIENTS[client](target, key.token, (36 if stops else 40) * MEGABYTE) == 413


@each_client
def test_a_client_whose_path_is_unknown_reads_404_after_an_upload(client: str, target: Target, gateway: Gateway):
    key = gateway.key()
    nowhere = Target(target.url.replace("/v1/", "/v2/"), target.authority)
    assert CLIENTS[client](nowhere, key.token, 3 * MEGABYTE) == 404
