"""What a gateway lets through has to mean the same to everybody.

A corpus of bodies, forms, paths and queries, written by hand and mixed from a seed, is sent with a key that may use the
model `good` alone, and with one that may use all but `bad`. What the upstream behind the gateway received is replayed,
byte for byte, into servers built with the parsers that stand behind such gateways (see `readers/`). A test fails where
any of them reads another model than the one the gateway judged, or none, which gets its default model, or serves
another path, or finds a model in the query. So that refusing everything is no way to pass, a good part of the corpus is
ordinary and has to arrive, and to be read by every one of them.

A finding becomes a case in `json_bodies`, `forms` or `targets`. The mixtures follow `KEYGATE_ORACLE_SEED`, which is
printed; `KEYGATE_ORACLE_CASES` makes more of them.
"""

import asyncio
import json
import os
import pathlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from processes import TARGET, Gateway, Process

import forms
import json_bodies
import targets
from case import Case, Kind
from wire import Recorded, Upstream, ask_all

# The whole corpus is sent and replayed within the first tests' fixtures.
pytestmark = pytest.mark.timeout(200)

HERE = pathlib.Path(__file__).resolve().parent
BUILT = TARGET / "test-env" / "oracle"
PYTHON = TARGET / "test-env" / "python" / "bin" / "python"
SEED = int(os.environ.get("KEYGATE_ORACLE_SEED", random.SystemRandom().randrange(2**32)))
COUNT = int(os.environ.get("KEYGATE_ORACLE_CASES", 1200))

JSON_ROUTES = [
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations", "/v1/rerank",
    "/v1/score", "/v1/audio/speech", "/v1/images/generations", "/v1/messages",
    "/v1/messages/count_tokens",
]
FORM_ROUTES = ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations"]
READERS = {
    "python": [PYTHON, HERE / "readers" / "reader.py"], "aiohttp": [PYTHON, HERE / "readers" / "reader_aiohttp.py"],
    "tornado": [PYTHON, HERE / "readers" / "reader_tornado.py"], "php": [PYTHON, HERE / "readers" / "reader_php.py"],
    "ruby": ["ruby", HERE / "readers" / "reader.rb"],
    "node": ["node", HERE / "readers" / "reader.js"], "go": [BUILT / "reader-go"], "c++": [BUILT / "reader-cpp"],
}

# Where a parser finds no model at all in what clients cannot be kept from sending, so that its server refuses them, or
# has a default for them. Tolerated for that reading alone; the README says what an upstream must not do.
KNOWN = {
    # .NET's HttpClient writes the names of a form's parts so.
    "cpp-httplib": re.compile(rb"name=model[ \t]*\r\n"),
}
# Where a parser takes a file for the model: it finds the part's name in the filename too. A server that asks for a text
# gets none. Tolerated for that reading alone.
TAKES_A_FILE = {
    # Rack searches the line for the last `; name=`.
    "Rack": re.compile(rb'; ?name="?[^"\\;=]*"?;[^\r\n]*filename="[^"\\\r\n]*;\s*name\s*=', re.IGNORECASE),
}


@dataclass
class Sent:
    """A case as it was sent with one of the keys: what the client was told, what the upstream got, and which model the
    gateway says that it judged."""

    case: Case
    key: str
    status: int
    recorded: Recorded | None
    model: str | None

    def __str__(self) -> str:
        return f"{self.case.name} (key {self.key}): {self.case.body[:150]!r}"

    def has_to_pass(self) -> bool:
        return self.case.kind is not Kind.HOSTILE and (self.key == "all_but" or self.case.model == "good")


@pytest.fixture(scope="session")
def corpus() -> list[Case]:
    print(f"KEYGATE_ORACLE_SEED={SEED}")
    dice = random.Random(SEED)
    return [
        *json_bodies.corpus(dice, COUNT), *forms.corpus(dice, COUNT), *targets.corpus(dice, COUNT // 4, JSON_ROUTES),
    ]


@pytest.fixture(scope="session")
def sent(corpus: list[Case], tmp_path_factory: pytest.TempPathFactory) -> list[Sent]:
    """The whole corpus, through a gateway, with both keys."""
    upstream = Upstream(json_bodies.CATALOGUE)
    answers, judged, forwarded = {}, {}, {}

    async def through_a_gateway(address: str) -> None:
        # Asked for its models: a config could not name all of them. Not for the usage of streams: every byte stays.
        up = {"name": "up", "url": f"http://{address}", "usage": "read"}
        gateway = Gateway(tmp_path_factory.mktemp("oracle") / "gateway", [up])
        try:
            await asyncio.to_thread(lambda: gateway.address)
            keys = {
                "only": await asyncio.to_thread(gateway.key, "--model-access", "inclusive", "--model", "good"),
                "all_but": await asyncio.to_thread(gateway.key, "--model-access", "exclusive", "--model", "bad"),
            }
            requests = (((number, name), case.wire("localhost", key.token, f"{name}.{number}"))
                        for number, case in enumerate(corpus) for name, key in keys.items())
            answers.update(await ask_all(gateway.address, requests))
        finally:
            await asyncio.to_thread(gateway.end)
        # Upstreams know a request by the gateway's own id for it.
        for event in gateway.log():
            if event.get("event") == "access":
                judged[event["client_request_id"]] = event.get("model")
                if event["request_id"] in upstream.recorded:
                    forwarded[event["client_request_id"]] = upstream.recorded[event["request_id"]]

    asyncio.run(upstream.serve(through_a_gateway))
    assert not upstream.faults
    return [
        Sent(
            corpus[number], name, answer.status, forwarded.get(f"{name}.{number}"),
            judged.get(f"{name}.{number}")
        ) for (number, name), answer in answers.items()
    ]


@dataclass
class Read:
    """What one server made of a request: which path it served, or None, and the model that each of its parsers read in
    the query and in the body: a text, None where there is none, a dict where the parser refused."""

    served: str | None
    query: dict
    body: dict


@pytest.fixture(scope="session")
def readings(sent: list[Sent], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[tuple, Read]]:
    """Every different request that was forwarded, in the eyes of every server."""
    folder = tmp_path_factory.mktemp("readers")
    routes = [",".join(JSON_ROUTES), ",".join(FORM_ROUTES)]
    servers = {name: Process(name, [*command, *routes], folder) for name, command in READERS.items()}
    different = {identity(one): one.recorded.raw for one in sent if one.recorded}

    async def replay(server: Process) -> dict[tuple, Read]:
        address = await asyncio.to_thread(server.wait_for, lambda: listening(server), "it listens")
        # Go first where there is less: a server with one thread gains nothing from many connections.
        answers = await ask_all(address, different.items(), 4)
        return {name: understood(answer.status, answer.body) for name, answer in answers.items()}

    async def all_of_them() -> dict[str, dict[tuple, Read]]:
        return dict(zip(servers, await asyncio.gather(*map(replay, servers.values())), strict=True))

    try:
        return asyncio.run(all_of_them())
    finally:
        for server in servers.values():
            server.end()


def identity(one: Sent) -> tuple:
    return one.recorded.target, one.recorded.content_type, one.recorded.body


def listening(server: Process) -> str | None:
    words = server.stdout.read_text().split()
    return words[1] if len(words) > 1 else None


def understood(status: int, body: bytes) -> Read:
    if status != 200:
        return Read(None, {}, {"the server": {"refused": f"{status} {body[:100]!r}"}})
    answer = json.loads(body)
    return Read(answer["served"], answer["query"], answer["body"])


def none_of(failures: Iterator[str]) -> None:
    """Fails with the first few, and how many there are."""
    all_of_them = list(failures)
    shown = "\n  ".join(all_of_them[:12])
    assert not all_of_them, f"{len(all_of_them)} with KEYGATE_ORACLE_SEED={SEED}:\n  {shown}"


def test_what_is_ordinary_passes_and_makes_a_good_part_of_the_corpus(sent: list[Sent]):
    none_of(f"{one}: {one.status}" for one in sent if one.has_to_pass() and (one.status != 200 or not one.recorded))
    forwarded = sum(one.recorded is not None for one in sent)
    print(f"{len(sent)} sent, {forwarded} forwarded, {Counter(one.status for one in sent)}")
    assert forwarded > len(sent) / 5, "too little passes to prove anything"


def test_nothing_is_forwarded_but_byte_for_byte_and_for_an_allowed_model(sent: list[Sent]):
    def wrong(one: Sent) -> bool:
        # A fragment, which belongs to no request, is cut off by the HTTP library before anybody sees it.
        target = one.case.target.partition("#")[0].encode("utf-8", "surrogateescape")
        same = one.recorded.body == one.case.body and one.recorded.target == target
        models = {"good"} if one.key == "only" else {*json_bodies.CATALOGUE} - {"bad"}
        return not (same and one.model in models)

    none_of(f"{one} as {one.recorded.target!r} for {one.model!r}" for one in sent if one.recorded and wrong(one))
    none_of(f"{one}: {one.status}" for one in sent if (one.status == 200) != (one.recorded is not None))


def test_no_case_hangs_or_fails_the_gateway(sent: list[Sent]):
    none_of(f"{one}: {one.status}" for one in sent if one.status >= 500 or one.status == 408)


@pytest.mark.parametrize("server", READERS)
def test_no_parser_reads_another_model_than_the_gateway_judged(server: str, sent: list[Sent], readings: dict):
    def wrong(one: Sent) -> Iterator[str]:
        read = readings[server][identity(one)]
        for parser, model in read.body.items():
            if isinstance(model, dict) and one.case.kind is Kind.ORDINARY:
                yield f"{one}: {parser} refuses what is ordinary: {model['refused']:.200}"
            elif model is None and parser in KNOWN and KNOWN[parser].search(one.case.body):
                continue
            elif model == "a file" and parser in TAKES_A_FILE and TAKES_A_FILE[parser].search(one.case.body):
                continue
            elif not isinstance(model, dict) and model != one.model:
                yield f"{one}: {parser} reads {model!r}, the gateway {one.model!r}"

    none_of(line for one in sent if one.recorded for line in wrong(one))


# What these find in a query besides the names `model` and `model[]`: qs and Rack read `model[0]` and `[model]`, cpp-httplib
# `?model` and `%u006dodel`, PHP `model[0]`, ` model` and `model%00`. The gateway passes every other name on, and no server takes its model from a query so spelled.
LENIENT = {"express", "cpp-httplib", "$_GET", "Rack"}


@pytest.mark.parametrize("server", READERS)
def test_no_server_serves_another_path_or_finds_a_model_in_the_query(server: str, sent: list[Sent], readings: dict):
    def wrong(one: Sent) -> Iterator[str]:
        read = readings[server][identity(one)]
        path = one.case.target.partition("#")[0].partition("?")[0]
        if read.served not in (path, None) or read.served is None and one.case.kind is Kind.ORDINARY:
            yield f"{one}: served as {read.served}, {read.body}"
        for parser, model in read.query.items():
            if model is not None and parser not in LENIENT:
                yield f"{one}: {parser} finds {model!r} in the query {one.case.target:.200}"

    none_of(line for one in sent if one.recorded for line in wrong(one))
