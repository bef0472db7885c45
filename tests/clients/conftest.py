"""What the tests ask for by name."""

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import openai
import pytest

import ledger
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
    clients: list = field(default_factory=list)

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
        """OpenAI's client; closed when the test ends."""
        client = openai.OpenAI(
            api_key=key if isinstance(key, str) else key.token,
            base_url=self.base_url,
            http_client=openai.DefaultHttpxClient(**self.transport),
            timeout=30,
            **options,
        )
        self.clients.append(client)
        return client

    def async_client(self, key: Key, **options) -> openai.AsyncOpenAI:
        """For `async with`, which closes it."""
        return openai.AsyncOpenAI(
            api_key=key.token,
            base_url=self.base_url,
            http_client=openai.DefaultAsyncHttpxClient(**self.transport),
            timeout=30,
            **options,
        )

    def http(self, key: Key | None = None) -> httpx.Client:
        """A client without opinions; closed when the test ends."""
        headers = {"Authorization": f"Bearer {key.token}"} if key else {}
        client = httpx.Client(
            base_url=self.base_url, headers=headers, timeout=30, event_hooks={"response": [keep_error]}, **self.transport
        )
        self.clients.append(client)
        return client


def keep_error(response: httpx.Response) -> None:
    """What the gateway says when it refuses is searched for secrets once all tests have run."""
    if response.status_code >= 400:
        response.read()
        ledger.said("errors", f"{response.status_code} {response.headers} {response.text}")


CONNECTIONS = ["plain HTTP/1.1", "plain HTTP/2", "TLS HTTP/1.1", "TLS HTTP/2"]


@pytest.fixture(params=CONNECTIONS)
def connection(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Connection]:
    """Each way in turn."""
    with connect(stage, request.param) as connection:
        yield connection


@pytest.fixture
def plain(stage: Stage) -> Iterator[Connection]:
    """Where the way makes no difference."""
    with connect(stage, "plain HTTP/1.1") as connection:
        yield connection


@contextlib.contextmanager
def connect(stage: Stage, way: str) -> Iterator[Connection]:
    security, http_version = way.split()
    if security == "TLS":
        verify = ssl.create_default_context(cafile=str(stage.authority))
        connection = Connection(stage.tls, http_version, verify)
    else:
        connection = Connection(stage.plain, http_version, True)
    yield connection
    for client in connection.clients:
        client.close()
