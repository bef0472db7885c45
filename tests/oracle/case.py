"""One request of the corpus, and what has to become of it."""

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """What is known of a request before it is sent. All three are held to the first rule: what is forwarded is
    read alike by every reader that does not refuse it."""

    ORDINARY = "has to pass, and every reader has to read its model"
    VALID = "has to pass; a reader may refuse what only some take"
    HOSTILE = "may be refused"


@dataclass
class Case:
    name: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    kind: Kind = Kind.HOSTILE
    model: str = "good"
    chunked: bool = False
    method: str = "POST"

    def wire(self, host: str, token: str, request_id: str) -> bytes:
        """The request as HTTP/1.1, byte for byte."""
        lines = [
            f"{self.method} ".encode() + self.target.encode("utf-8", "surrogateescape") + b" HTTP/1.1",
            f"Host: {host}".encode(), f"Authorization: Bearer {token}".encode(),
            f"X-Request-Id: {request_id}".encode(),
            *(f"{name}: {value}".encode("latin-1") for name, value in self.headers),
        ]
        if self.chunked:
            lines.append(b"Transfer-Encoding: chunked")
            middle = len(self.body) // 2
            pieces = [piece for piece in (self.body[:middle], self.body[middle:]) if piece]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            lines.append(b"Content-Length: %d" % len(self.body))
            body = self.body
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


JSON = [("Content-Type", "application/json")]


def chat(name: str, body: bytes | str, kind: Kind = Kind.HOSTILE, model: str = "good", **more) -> Case:
    """A request with a JSON body."""
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    return Case(name, "/v1/chat/completions", JSON, raw, kind, model, **more)
