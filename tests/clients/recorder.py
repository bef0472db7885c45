"""A stand-in upstream that keeps every byte of every request, and answers as a test says."""

import http.server
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

MODELS = ["recorded", "whisper-1"]


@dataclass
class Recorded:
    """A request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def holds(self, secret: str) -> bool:
        """Whether it is anywhere in the request."""
        return secret in f"{self.target}{self.headers}" or secret.encode() in self.body


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: bytes = b"{}"


class Exchange:
    """The answering side of one request, for a test that writes its answer piece by piece."""

    def __init__(self, handler: http.server.BaseHTTPRequestHandler):
        self._handler = handler

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.flush()

    def chunk(self, data: bytes) -> None:
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self._handler.wfile.flush()

    def finish(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def peer_left(self, within: float) -> bool:
        """Waits for the other side's end of the connection."""
        self._handler.connection.settimeout(within)
        try:
            return self._handler.connection.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def cut(self) -> None:
        """Closes the connection in the middle."""
        self._handler.close_connection = True


class Silence:
    """No answer at all, until the other side closes the connection."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.left = threading.Event()

    def __call__(self, _: Recorded, exchange: Exchange) -> None:
        self.begun.set()
        if exchange.peer_left(within=20):
            self.left.set()
        exchange.cut()


class Recorder:
    """Listens on a free port of 127.0.0.1 from its making until `close`."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.discoveries: list[Recorded] = []
        self.answer: Answer | Callable[[Recorded, Exchange], None] = Answer()
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def handle_one(self) -> None:
                recorded = Recorded(self.command, self.path, self.headers.items(), self.read_body())
                if (self.command, self.path) == ("GET", "/v1/models"):
                    recorder.discoveries.append(recorded)
                    data = [{"id": name, "object": "model", "created": 0, "owned_by": "recorder"} for name in MODELS]
                    answer = Answer(body=json.dumps({"object": "list", "data": data}).encode())
                else:
                    recorder.requests.append(recorded)
                    answer = recorder.answer
                if isinstance(answer, Answer):
                    headers = answer.headers | {"Content-Length": str(len(answer.body))}
                    Exchange(self).head(answer.status, headers)
                    self.wfile.write(answer.body)
                else:
                    answer(recorded, Exchange(self))

            do_GET = do_POST = handle_one

            def read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return body

            def log_message(self, *_) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """As new, save for what was discovered."""
        self.requests.clear()
        self.answer = Answer()

    def only(self) -> Recorded:
        """The one request that arrived."""
        assert len(self.requests) == 1, f"{len(self.requests)} requests arrived"
        return self.requests[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
