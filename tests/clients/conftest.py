"""What the tests ask for by name."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import openai
import pytest

from processes import KEYGATE, Gateway, Key
from recorder import Recorder
from stage import Stage, set_stage

# A question with the same answer every time, and one that the model would answer for twenty seconds.
QUESTION = [{"role": "user", "content": "Name three colours."}]
SHORT = {"messages": QUESTION, "temperature": 0, "max_tokens": 24}
ENDLESS = {"messages": QUESTION, "temperature": 0, "max_tokens": 1500}
ENDLESS_EXTRA = {"ignore_eos": True}


def pytest_report_header() -> str:
    return f"openai {openai.__version__}, keygate {KEYGATE}"


@pytest.fixture(scope="session")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with set_stage() as stage:
        yield stage
        stage.keep = request.session.testsfailed > 0


@pytest.fixture
def recorder(stage: Stage) -> Iterator[Recorder]:
    stage.recorder.forget()
    yield stage.recorder
    stage.recorder.forget()


@dataclass
class Connection:
    """A way to reach a gateway: plain or TLS, HTTP/1.1 or HTTP/2."""

    gateway: Gateway
    http_version: str
    verify: ssl.SSLContext | bool

    @property
    def base_url(self) -> str:
        return f"{self.gateway.url}/v1"

    @property
    def transport(self) -> dict:
        """Options of httpx's clients."""
        two = self.http_version == "HTTP/2"
        # Without TLS nothing is negotiated: the client says HTTP/2 outright (prior knowledge).
        return {"verify": self.verify, "http2": two, "http1": not two}

    def client(self, key: Key | str, **options) -> openai.OpenAI:
        return openai.OpenAI(
            api_key=key if isinstance(key, str) else key.token,
            base_url=self.base_url,
            http_client=openai.DefaultHttpxClient(**self.transport),
            timeout=30,
            **options,
        )

    def async_client(self, key: Key) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=key.token,
            base_url=self.base_url,
            http_client=openai.DefaultAsyncHttpxClient(**self.transport),
            timeout=30,
        )

    def http(self, key: Key | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key.token}"} if key else {}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=30, **self.transport)


CONNECTIONS = ["plain HTTP/1.1", "plain HTTP/2", "TLS HTTP/1.1", "TLS HTTP/2"]


@pytest.fixture(params=CONNECTIONS)
def connection(request: pytest.FixtureRequest, stage: Stage) -> Connection:
    """Each way in turn."""
    return connect(stage, request.param)


@pytest.fixture
def plain(stage: Stage) -> Connection:
    """Where the way makes no difference."""
    return connect(stage, "plain HTTP/1.1")


def connect(stage: Stage, way: str) -> Connection:
    security, http_version = way.split()
    if security == "TLS":
        return Connection(stage.tls, http_version, ssl.create_default_context(cafile=str(stage.authority)))
    return Connection(stage.plain, http_version, True)
