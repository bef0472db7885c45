"""HTTP/1.1 byte for byte, many connections at once: a client that sends what it is given, and an upstream that keeps
what it got."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

# Whatever takes longer has hung.
PATIENCE = 20


@dataclass
class Answer:
    """A status, 0 where the connection ended without one, and the body."""

    status: int
    body: bytes


@dataclass
class Recorded:
    """A request as it arrived: its bytes, and what they say."""

    raw: bytes
    target: bytes
    content_type: bytes
    body: bytes


class Connection:
    """A connection that is made anew when the other side has ended it."""
    def __init__(self, address: str):
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Answer:
        async with asyncio.timeout(PATIENCE):
            reused = self.writer is not None
            answer = await self._ask_once(request)
            # A kept connection may have ended while nobody looked.
            if answer.status == 0 and reused:
                answer = await self._ask_once(request)
            return answer

    async def _ask_once(self, request: bytes) -> Answer:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 27)
        with contextlib.suppress(ConnectionError):
            self.writer.write(request)
            await self.writer.drain()
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            headers = headers_of(head)
            body = b""
            if status >= 200 and status not in (204, 304) and not request.startswith(b"HEAD "):
                body = await body_of(self.reader, headers, until_close=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.close()
            return Answer(0, b"")
        if headers.get(b"connection", b"").lower() == b"close" or b"content-length" not in headers:
            await self.close()
        return Answer(status, body)

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()
        self.reader = self.writer = None


def headers_of(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n")[1:-2]
    pairs = (line.partition(b":") for line in lines)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def body_of(reader: asyncio.StreamReader, headers: dict[bytes, bytes], until_close: bool = False) -> bytes:
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = b""
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if size == 0:
                return body
    if b"content-length" in headers:
        return await reader.readexactly(int(headers[b"content-length"]))
    return await reader.read() if until_close else b""


async def ask_all(address: str, requests: Iterable[tuple[Any, bytes]], connections: int = 8) -> dict[Any, Answer]:
    """Sends each request on one of so many connections; the answers by the requests' names."""
    waiting = iter(requests)
    answers: dict[Any, Answer] = {}

    async def work() -> None:
        connection = Connection(address)
        for name, request in waiting:
            answers[name] = await connection.ask(request)
        await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(work())
    return answers


class Upstream:
    """Lists its models, answers everything else with `{}`, and keeps it under its X-Request-Id."""
    def __init__(self, models: list[str]) -> None:
        self.models = json.dumps({"object": "list", "data": [{"id": model} for model in models]}).encode()
        self.recorded: dict[str, Recorded] = {}
        self.faults: list[str] = []

    async def serve(self, use: Callable[[str], Awaitable]) -> None:
        """Listens while `use` runs with the address."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 27)
        host, port = server.sockets[0].getsockname()
        try:
            await use(f"{host}:{port}")
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = headers_of(head)
                body = await body_of(reader, headers)
                raw = head + body if b"content-length" in headers else without_chunks(head, body)
                request = Recorded(raw, head.split(b" ", 2)[1], headers.get(b"content-type", b""), body)
                name = headers.get(b"x-request-id", b"").decode()
                asked_for_models = head.startswith(b"GET /v1/models ")
                if not asked_for_models:
                    if name in self.recorded:
                        self.faults.append(f"{name} came twice")
                    self.recorded[name] = request
                answer = self.models if asked_for_models else b"{}"
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" %
                    (len(answer), answer)
                )
        writer.close()


def without_chunks(head: bytes, body: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"transfer-encoding:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body
