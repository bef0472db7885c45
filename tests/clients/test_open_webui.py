"""The calls that Open WebUI makes, as its source makes them: models and chat with aiohttp, transcription with
requests. Its package is too large to install for three calls."""

import asyncio
import io
import json
import time

import aiohttp
import pytest
import requests

from conftest import QUESTION, Connection
from processes import Key, eventually
from recorder import Answer, Recorder
from stage import UPSTREAM_SECRET, Stage

# Open WebUI speaks HTTP/1.1 only, with or without TLS.
pytestmark = pytest.mark.parametrize("connection", ["plain HTTP/1.1", "TLS HTTP/1.1"], indirect=True)

# Sent with each call where its administrator forwards user information.
USER = {
    "X-OpenWebUI-User-Name": "Ada Lovelace",
    "X-OpenWebUI-User-Id": "7d1c0f5e",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "user",
}
COOKIES = {"token": "the-session-of-its-user"}


def headers(key: Key | str) -> dict:
    token = key if isinstance(key, str) else key.token
    return {"Content-Type": "application/json", **USER, "Authorization": f"Bearer {token}"}


def session(**options) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=30), **options)


async def model_list(connection: Connection, key: Key | str) -> tuple[int, dict]:
    async with session() as client:
        url = f"{connection.base_url}/models"
        async with client.get(url, headers=headers(key), cookies=COOKIES, ssl=connection.verify) as answer:
            return answer.status, await answer.json()


def chat_payload(model: str, **options) -> str:
    return json.dumps(
        {
            "stream": True,
            "model": model,
            "messages": QUESTION,
            "temperature": 0,
            "stream_options": {"include_usage": True},
            **options,
        }
    )


def test_its_model_list_holds_what_the_key_may_use(connection: Connection):
    key = connection.gateway.key("--model-access", "inclusive", "--model", "tiny-a", "--model", "whisper-1")
    status, models = asyncio.run(model_list(connection, key))
    assert status == 200
    assert models["object"] == "list"
    assert [model["id"] for model in models["data"]] == ["tiny-a", "whisper-1"]
    # It shows `name` where a model has one, and takes null for a name.
    assert all(model.get("name", model["id"]) for model in models["data"])


def test_its_connection_check_shows_the_reason_of_a_refusal(connection: Connection):
    status, answer = asyncio.run(model_list(connection, "wrong"))
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


def test_its_streamed_chat_arrives_line_by_line_with_the_usage_at_the_end(connection: Connection):
    async def chat() -> tuple[str, list[bytes]]:
        async with session(read_bufsize=4 * 1024 * 1024) as client:
            answer = await client.request(
                method="POST",
                url=f"{connection.base_url}/chat/completions",
                data=chat_payload("tiny-a", max_tokens=24),
                headers=headers(connection.gateway.key()),
                cookies=COOKIES,
                ssl=connection.verify,
            )
            return answer.headers["Content-Type"], [line async for line in answer.content]

    content_type, lines = asyncio.run(chat())
    assert content_type == "text/event-stream"
    events = [line.removeprefix(b"data: ").strip() for line in lines if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert len(text) > 20
    assert chunks[-1]["usage"]["completion_tokens"] == 24


def test_its_streamed_chat_breaks_when_the_key_is_deleted(connection: Connection, stage: Stage):
    eventually(lambda: stage.a.generating() == 0, "the model is idle", within=40)
    key = connection.gateway.key()
    lines = []

    def delete() -> float:
        connection.gateway.delete(key)
        return time.monotonic()

    async def chat() -> float:
        async with session(read_bufsize=4 * 1024 * 1024) as client:
            answer = await client.request(
                method="POST",
                url=f"{connection.base_url}/chat/completions",
                data=chat_payload("tiny-a", max_tokens=1500, ignore_eos=True),
                headers=headers(key),
                ssl=connection.verify,
            )
            deletion = None
            with pytest.raises(aiohttp.ClientPayloadError):
                async for line in answer.content:
                    lines.append(line)
                    if len(lines) == 10:
                        # Beside the reading: aiohttp drops what is still unread when a connection breaks.
                        deletion = asyncio.create_task(asyncio.to_thread(delete))
            broken = time.monotonic()
            return broken - await deletion

    assert asyncio.run(chat()) < 1.0
    events = [line for line in lines if line.startswith(b"data: ")]
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "invalid_api_key"
    assert not any(b"[DONE]" in line for line in lines)


def test_its_user_who_closes_the_tab_stops_the_generation(connection: Connection, stage: Stage):
    eventually(lambda: stage.a.generating() == 0, "the model is idle", within=40)

    async def chat() -> None:
        async with session() as client:
            answer = await client.request(
                method="POST",
                url=f"{connection.base_url}/chat/completions",
                data=chat_payload("tiny-a", max_tokens=1500, ignore_eos=True),
                headers=headers(connection.gateway.key()),
                ssl=connection.verify,
            )
            async for _ in answer.content:
                break
            assert await asyncio.to_thread(stage.a.generating) == 1
            answer.close()

    asyncio.run(chat())
    eventually(lambda: stage.a.generating() == 0, "llama.cpp stopped generating", within=1.5)


@pytest.mark.parametrize("language", [None, "en"])
def test_its_transcription_reaches_the_upstream_byte_for_byte(
    connection: Connection, stage: Stage, recorder: Recorder, language: str | None
):
    recorder.answer = Answer(body='{"text": "Guten Tag, grüß Gott."}'.encode())
    # Every byte there is, line ends and what looks like a delimiter included.
    audio = b"RIFF" + bytes(range(256)) * 300 + b"\r\n--not-the-boundary--\r\n"
    key = connection.gateway.key("--model-access", "inclusive", "--model", "whisper-1")
    answer = requests.post(
        url=f"{connection.base_url}/audio/transcriptions",
        headers={"Authorization": f"Bearer {key.token}", **USER},
        cookies=COOKIES,
        files={"file": ("0f1e2d3c.wav", io.BytesIO(audio))},
        data={"model": "whisper-1"} | ({"language": language} if language else {}),
        verify=str(stage.authority),
        timeout=30,
    )
    assert (answer.status_code, answer.json()["text"]) == (200, "Guten Tag, grüß Gott.")

    received = recorder.only()
    assert (received.method, received.target) == ("POST", "/v1/audio/transcriptions")
    assert received.body == answer.request.body
    assert audio in received.body
    assert received.header("Content-Type") == [answer.request.headers["Content-Type"]]
    assert received.header("Authorization") == [f"Bearer {UPSTREAM_SECRET}"]
    assert received.header("Cookie") == []
    # Who the user is does not concern the upstream, unless its forward_headers says so.
    assert received.header("X-OpenWebUI-User-Email") == []
    assert not received.holds(key.token)
    assert not received.holds(COOKIES["token"])


def test_its_transcription_with_a_model_that_is_not_allowed_never_reaches_an_upstream(
    connection: Connection, stage: Stage, recorder: Recorder
):
    key = connection.gateway.key("--model-access", "exclusive", "--model", "whisper-1")
    answer = requests.post(
        url=f"{connection.base_url}/audio/transcriptions",
        headers={"Authorization": f"Bearer {key.token}"},
        files={"file": ("0f1e2d3c.wav", io.BytesIO(b"RIFF"))},
        data={"model": "whisper-1"},
        verify=str(stage.authority),
        timeout=30,
    )
    # It shows the message to its user.
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.json()["error"]["message"]
    assert recorder.requests == []
