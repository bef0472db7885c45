"""What passes between a client and an upstream that keeps every byte."""

import functools
import gzip
import json
import subprocess
import threading
import time
import zlib

import brotli
import httpx
import pytest
import zstandard

from conftest import Connection
from processes import Gateway, Llama
from recorder import Answer, Exchange, Recorded, Recorder
from stage import UPSTREAM_SECRET, Stage

PIECES = [b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n', b"data: [DONE]\n\n"]
STREAM = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}


def test_a_json_body_reaches_the_upstream_byte_for_byte(connection: Connection, recorder: Recorder):
    # Escapes, spaces, an integer that no float holds, keys out of order: a body written anew would lose them.
    body = b'{ "z":1e400,"model" : "\\u0072ecorded","big":12345678901234567890123,\r\n"t":"\\ud83d\\ude00","a":[ ] }'
    key = connection.gateway.key("--model-access", "inclusive", "--model", "recorded")
    answer = connection.http(key).post(
        "/chat/completions?verbose=1&a=%20b", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 200
    received = recorder.only()
    assert received.body == body
    assert received.target == "/v1/chat/completions?verbose=1&a=%20b"


def bare_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def zstd_stream(body: bytes) -> bytes:
    """As a client writes it that does not know the length beforehand."""
    compressor = zstandard.ZstdCompressor(level=19, write_checksum=True).compressobj()
    return compressor.compress(body) + compressor.flush()


CODINGS = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", bare_deflate),
    ("br", functools.partial(brotli.compress, quality=5)),
    ("zstd", zstandard.compress),
    ("zstd", zstd_stream),
]


@pytest.mark.parametrize("is_length_known", [True, False])
@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_a_compressed_body_reaches_the_upstream_as_it_was_before(
    connection: Connection, recorder: Recorder, coding: str, compress, is_length_known: bool
):
    words = " ".join(str(number * number) for number in range(40_000))
    body = json.dumps({"model": "recorded", "messages": [{"role": "user", "content": words}]}).encode()
    sent = compress(body)
    pieces = (sent[at : at + 1000] for at in range(0, len(sent), 1000))
    key = connection.gateway.key("--model-access", "inclusive", "--model", "recorded")
    answer = connection.http(key).post(
        "/chat/completions",
        content=sent if is_length_known else pieces,
        headers={"Content-Type": "application/json", "Content-Encoding": coding},
    )
    assert answer.status_code == 200
    received = recorder.only()
    assert received.body == body
    assert received.header("Content-Length") == [str(len(body))]
    assert not received.header("Content-Encoding")


def test_curl_sends_a_compressed_body(plain: Connection, recorder: Recorder):
    body = b'{"model":"recorded","messages":[]}'
    key = plain.gateway.key()
    headers = [f"Authorization: Bearer {key.token}", "Content-Type: application/json", "Content-Encoding: gzip"]
    words = ["curl", "-sS", "--fail-with-body", "--data-binary", "@-", f"{plain.base_url}/chat/completions"]
    words += [word for header in headers for word in ("-H", header)]
    subprocess.run(words, input=gzip.compress(body), check=True, timeout=30, stdout=subprocess.DEVNULL)
    assert recorder.only().body == body


def test_neither_the_token_nor_the_clients_other_secrets_reach_the_upstream(connection: Connection, recorder: Recorder):
    key = connection.gateway.key()
    secrets = {
        "Cookie": "session=secret-1",
        "Proxy-Authorization": "Basic secret-4",
        "OpenAI-Organization": "secret-5",
        "OpenAI-Project": "secret-6",
        "X-Forwarded-For": "198.51.100.66",
        "X-Real-IP": "198.51.100.66",
    }
    connection.http(key).post("/embeddings", json={"model": "recorded", "input": "x"}, headers=secrets)
    received = recorder.only()
    assert not received.holds(key.token)
    assert not received.holds("secret-")
    assert not received.holds("198.51.100.66")
    assert received.header("Authorization") == [f"Bearer {UPSTREAM_SECRET}"]
    assert received.header("X-Forwarded-For") == ["127.0.0.1"]
    assert received.header("X-Forwarded-Proto") == [connection.gateway.url.split(":")[0]]
    assert received.header("Host") == [recorder.url.removeprefix("http://")]


def test_discovery_sends_the_upstreams_credential(stage: Stage):
    assert stage.plain.address and stage.tls.address
    assert stage.recorder.discoveries
    for request in stage.recorder.discoveries:
        assert request.header("Authorization") == [f"Bearer {UPSTREAM_SECRET}"]


def test_a_piece_of_an_answer_is_passed_on_before_the_next_exists(connection: Connection, recorder: Recorder):
    seen = [threading.Event() for _ in PIECES]

    def one_after_the_other(_: Recorded, exchange: Exchange) -> None:
        exchange.head(200, STREAM)
        for piece, arrived in zip(PIECES, seen, strict=True):
            exchange.chunk(piece)
            if not arrived.wait(10):
                return exchange.cut()
        exchange.finish()

    recorder.answer = one_after_the_other
    request = {"model": "recorded", "stream": True}
    with connection.http(connection.gateway.key()).stream("POST", "/chat/completions", json=request) as answer:
        assert answer.http_version == connection.http_version
        got = []
        for piece in answer.iter_raw():
            got.append(piece)
            seen[len(got) - 1].set()
    assert got == PIECES


def test_an_answer_that_the_upstream_breaks_off_is_broken_off_after_all_that_came(
    connection: Connection, recorder: Recorder
):
    def broken(_: Recorded, exchange: Exchange) -> None:
        exchange.head(200, STREAM)
        exchange.chunk(PIECES[0])
        exchange.chunk(PIECES[1])
        exchange.cut()

    recorder.answer = broken
    got = b""
    client = connection.http(connection.gateway.key())
    with pytest.raises(httpx.RemoteProtocolError):
        with client.stream("POST", "/chat/completions", json={"model": "recorded", "stream": True}) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw():
                got += piece
    assert got == PIECES[0] + PIECES[1]


def test_a_real_upstream_that_dies_in_the_middle_of_a_stream_never_ends_it_cleanly(stage: Stage, tmp_path):
    llama = Llama("mortal", tmp_path)
    try:
        gateway = Gateway(tmp_path / "gateway", [{"name": "mortal", "url": llama.url}])
        try:
            key = gateway.key()
            request = {
                "model": "mortal",
                "stream": True,
                "messages": [{"role": "user", "content": "Count."}],
                "max_tokens": 1500,
                "ignore_eos": True,
            }
            headers = {"Authorization": f"Bearer {key.token}"}
            lines = []
            with pytest.raises(httpx.RemoteProtocolError):
                with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=request, headers=headers) as answer:
                    for line in answer.iter_lines():
                        lines.append(line)
                        if len(lines) == 8:
                            llama.process.kill()
                            killed = time.monotonic()
            assert time.monotonic() - killed < 1.0
            assert not any("[DONE]" in line for line in lines)

            refused = httpx.post(f"{gateway.url}/v1/chat/completions", json=request, headers=headers)
            assert refused.status_code in (502, 503)
            assert refused.json()["error"]["code"] in ("upstream_unreachable", "upstream_unavailable")
        finally:
            gateway.end()
    finally:
        llama.process.end()


@pytest.mark.parametrize("http_version", ["HTTP/1.1", "HTTP/2"])
def test_an_idle_connection_does_not_hold_up_the_end(recorder: Recorder, tmp_path, http_version: str):
    gateway = Gateway(tmp_path / "gateway", [{"name": "recorder", "url": recorder.url, "api_key_env": "RECORDER_KEY"}],
                      environment={"RECORDER_KEY": UPSTREAM_SECRET})
    two = http_version == "HTTP/2"
    # This client reads its connection only while it waits for an answer, so it sees no farewell.
    with httpx.Client(http1=not two, http2=two) as client:
        headers = {"Authorization": f"Bearer {gateway.key().token}"}
        assert client.get(f"{gateway.url}/v1/models", headers=headers).http_version == http_version
        began = time.monotonic()
        gateway.end()
        assert time.monotonic() - began < 5


def test_the_paths_of_the_upstream_that_are_no_api_stay_unreachable(connection: Connection, stage: Stage):
    client = connection.http(connection.gateway.key())
    for path in ("slots", "props", "metrics", "health", "tokenize", "completion", "v1/health", "v1/../slots"):
        answer = client.get(f"{connection.gateway.url}/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), path
    assert httpx.get(f"{stage.a.url}/props").status_code == 200


def test_what_the_upstream_says_of_itself_is_not_passed_on(plain: Connection, recorder: Recorder):
    said = {"Server": "llama.cpp", "Set-Cookie": "a=b", "Alt-Svc": "h3", "Access-Control-Allow-Origin": "*",
            "X-Timing": "7", "Content-Type": "application/json"}
    recorder.answer = Answer(200, said, b"{}")
    answer = plain.http(plain.gateway.key()).post("/embeddings", json={"model": "recorded"})
    assert answer.headers["X-Timing"] == "7"
    for name in ("Server", "Set-Cookie", "Alt-Svc", "Access-Control-Allow-Origin"):
        assert name not in answer.headers


def test_a_key_tells_its_holder_what_it_may_do(connection: Connection):
    key = connection.gateway.key("--model-access", "inclusive", "--model", "tiny-a", "--model", "gone", name="Ada's")
    shown = connection.http(key).get("/key").json()
    assert (shown["id"], shown["name"], shown["models"]) == (key.id, "Ada's", ["tiny-a"])
    assert shown["client_address"] == "127.0.0.1"
    assert key.token not in json.dumps(shown)
