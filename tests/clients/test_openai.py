"""The official OpenAI library for Python, over every way to connect, in front of a real llama.cpp server."""

import asyncio
import datetime
import time

import openai
import pytest

from conftest import ENDLESS, ENDLESS_EXTRA, QUESTION, SHORT, Connection
from processes import eventually
from recorder import Answer, Recorder, Silence
from stage import ELSEWHERE, Stage

# The gateway's share of a second, in which it ends a revoked stream; and llama.cpp's own half on top, in which it
# notices that its client is gone.
ENDED = 1.0
RELEASED = 1.5


def upstream(stage: Stage) -> openai.OpenAI:
    """The model without the gateway."""
    return openai.OpenAI(api_key="none", base_url=f"{stage.a.url}/v1", timeout=30)


# What works


def test_a_chat_is_answered_as_the_upstream_answers_it(connection: Connection, stage: Stage):
    key = connection.gateway.key()
    answer = connection.client(key).chat.completions.with_raw_response.create(model="tiny-a", **SHORT)
    assert answer.http_response.http_version == connection.http_version
    direct = upstream(stage).chat.completions.create(model="tiny-a", **SHORT)
    assert answer.parse().choices == direct.choices
    assert len(answer.parse().choices[0].message.content) > 20


def test_a_streamed_chat_is_the_same_text_in_pieces(connection: Connection, stage: Stage):
    stream = connection.client(connection.gateway.key()).chat.completions.create(
        model="tiny-a", stream=True, stream_options={"include_usage": True}, **SHORT
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    direct = upstream(stage).chat.completions.create(model="tiny-a", **SHORT)
    assert len(pieces) > 10
    assert "".join(pieces) == direct.choices[0].message.content
    assert chunks[-1].usage == direct.usage


def test_a_streamed_chat_begins_long_before_it_ends(connection: Connection):
    began = time.monotonic()
    stream = connection.client(connection.gateway.key()).chat.completions.create(
        model="tiny-a", stream=True, messages=QUESTION, max_tokens=100, temperature=0, extra_body=ENDLESS_EXTRA
    )
    arrivals = [time.monotonic() - began for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert len(arrivals) > 50
    assert arrivals[0] < arrivals[-1] / 2


def test_embeddings_are_the_upstreams(connection: Connection, stage: Stage):
    texts = ["a key", "a gate"]
    got = connection.client(connection.gateway.key()).embeddings.create(model="tiny-b", input=texts)
    direct = openai.OpenAI(api_key="none", base_url=f"{stage.b.url}/v1").embeddings.create(model="tiny-b", input=texts)
    assert got.data == direct.data
    assert len(got.data[0].embedding) == 576


def test_plain_completions_and_responses_are_served(connection: Connection):
    client = connection.client(connection.gateway.key())
    completion = client.completions.create(model="tiny-a", prompt="One, two,", max_tokens=4, temperature=0)
    assert completion.choices[0].text
    response = client.responses.create(model="tiny-a", input="Say hello.", max_output_tokens=16, temperature=0)
    assert response.output_text
    events = list(client.responses.create(model="tiny-a", input="Say hello.", max_output_tokens=8, stream=True))
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_concurrent_requests_over_one_client_each_get_their_own_answer(connection: Connection, stage: Stage):
    key = connection.gateway.key()
    texts = [f"text number {number}" for number in range(12)]

    async def all_at_once():
        async with connection.async_client(key) as client:
            return await asyncio.gather(
                *(client.embeddings.create(model=("tiny-a", "tiny-b")[len(text) % 2], input=text) for text in texts)
            )

    answers = asyncio.run(all_at_once())
    direct = upstream(stage)
    for text, answer in zip(texts, answers, strict=True):
        got, wanted = answer.data[0].embedding, direct.embeddings.create(model="any", input=text).data[0].embedding
        # Batched with others, the same text's vector differs in its last digits; another text's differs in its first.
        assert max(abs(g - w) for g, w in zip(got, wanted, strict=True)) < 0.01


# Models


def test_the_models_listed_are_those_that_the_key_may_use(connection: Connection):
    gateway = connection.gateway
    every = {"tiny-a", "tiny-b", "recorded", "whisper-1"}
    for options, allowed in [
        ([], every),
        (["--model-access", "inclusive", "--model", "tiny-b"], {"tiny-b"}),
        (["--model-access", "exclusive", "--model", "tiny-b"], every - {"tiny-b"}),
    ]:
        client = connection.client(gateway.key(*options))
        assert {model.id for model in client.models.list()} == allowed
        for model in every:
            if model in allowed:
                assert client.models.retrieve(model).id == model
            else:
                with pytest.raises(openai.NotFoundError) as refused:
                    client.models.retrieve(model)
                assert refused.value.code == "model_not_found"


def test_a_model_that_is_not_allowed_is_refused_like_one_that_does_not_exist(connection: Connection, stage: Stage):
    key = connection.gateway.key("--model-access", "inclusive", "--model", "tiny-b")
    client = connection.client(key)
    bodies = []
    for model in ("tiny-a", "no-such-model"):
        for call in (
            lambda: client.chat.completions.create(model=model, **SHORT),
            lambda: client.chat.completions.create(model=model, stream=True, **SHORT),
            lambda: client.embeddings.create(model=model, input="x"),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                call()
            assert (refused.value.status_code, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
            bodies.append(refused.value.response.content)
    assert len(set(bodies)) == 1
    assert client.chat.completions.create(model="tiny-b", **SHORT).choices


def test_a_model_excluded_by_a_key_is_refused_and_the_others_are_served(connection: Connection):
    client = connection.client(connection.gateway.key("--model-access", "exclusive", "--model", "tiny-a"))
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="tiny-a", **SHORT)
    assert refused.value.code == "model_not_found"
    assert client.chat.completions.create(model="tiny-b", **SHORT).choices


def test_a_request_without_a_model_is_a_bad_request(connection: Connection):
    client = connection.client(connection.gateway.key())
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", cast_to=object, body={"messages": QUESTION})
    assert (refused.value.status_code, refused.value.code) == (400, "missing_model")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="", **SHORT)
    assert (refused.value.status_code, refused.value.code) == (400, "missing_model")


# Keys


@pytest.mark.parametrize("token", ["wrong", "sk-0123456789", "kg_" + "0" * 49], ids=["a word", "another's", "a forgery"])
def test_a_wrong_key_is_an_authentication_error(connection: Connection, token: str):
    client = connection.client(token)
    for call in (client.models.list, lambda: client.chat.completions.create(model="tiny-a", **SHORT)):
        with pytest.raises(openai.AuthenticationError) as refused:
            call()
        assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
        assert token not in str(refused.value)


def test_no_key_is_an_authentication_error(connection: Connection):
    answer = connection.http().post("/chat/completions", json={"model": "tiny-a", **SHORT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")


def test_a_key_made_elsewhere_whose_end_has_come_is_refused_as_expired(connection: Connection):
    with pytest.raises(openai.AuthenticationError) as refused:
        connection.client(ELSEWHERE).chat.completions.create(model="tiny-a", **SHORT)
    assert (refused.value.status_code, refused.value.code) == (401, "expired_api_key")


def test_a_key_for_another_network_is_refused_and_one_for_this_network_serves(connection: Connection):
    gateway = connection.gateway
    with pytest.raises(openai.AuthenticationError) as refused:
        connection.client(gateway.key("--allow-from", "192.0.2.0/24")).models.list()
    assert (refused.value.status_code, refused.value.code) == (401, "ip_not_authorized")
    assert connection.client(gateway.key("--allow-from", "127.0.0.0/8")).models.list().data


def test_a_disabled_key_is_refused_until_it_is_enabled(connection: Connection):
    key = connection.gateway.key()
    client = connection.client(key)
    assert client.models.list().data
    connection.gateway.run("keys", "disable", key.id)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"
    connection.gateway.run("keys", "enable", key.id)
    assert client.models.list().data


def test_a_deleted_key_is_refused_on_the_connection_that_served_it(connection: Connection):
    key = connection.gateway.key()
    client = connection.client(key)
    assert client.models.list().data
    connection.gateway.delete(key)
    with pytest.raises(openai.AuthenticationError) as refused:
        client.models.list()
    assert refused.value.code == "invalid_api_key"


def test_both_tokens_of_a_rotated_key_work_until_the_old_one_ends(connection: Connection, stage: Stage):
    gateway = connection.gateway
    old = gateway.key()
    _, _, chunks = begin_endless(connection, old, stage)
    new = gateway.rotate(old, "--grace", "1h")
    for key, token in [(old, "previous"), (new, "current")]:
        client = connection.client(key)
        assert client.chat.completions.create(model="tiny-a", **SHORT).choices[0].message.content
        assert client.get("/key", cast_to=object)["token"] == token
    next(iter(chunks))
    assert gateway.admin("GET", f"/api/keys/{old.id}").json()["previous"]["last_used_at"]
    gateway.run("keys", "expire-previous", old.id)
    ended = time.monotonic()
    with pytest.raises(openai.APIError) as raised:
        for _ in chunks:
            assert time.monotonic() - ended < ENDED, "chunks still arrive"
    assert raised.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError) as refused:
        connection.client(old).chat.completions.create(model="tiny-a", **SHORT)
    assert refused.value.code == "invalid_api_key"
    assert connection.client(new).chat.completions.create(model="tiny-a", **SHORT).choices


# Errors


def test_every_answer_has_a_request_id_and_the_clients_own_is_kept(connection: Connection):
    client = connection.client(connection.gateway.key())
    first = client.chat.completions.create(model="tiny-a", **SHORT)
    second = client.models.list()
    assert first._request_id and second._request_id and first._request_id != second._request_id
    mine = client.chat.completions.create(model="tiny-a", extra_headers={"X-Request-Id": "job-7.a_b"}, **SHORT)
    assert mine._request_id == "job-7.a_b"
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("no-such-model")
    assert refused.value.request_id


def test_an_error_of_the_upstream_arrives_as_the_upstream_wrote_it(connection: Connection, stage: Stage):
    body = {"model": "tiny-a", "messages": "not a list"}
    client = connection.client(connection.gateway.key())
    with pytest.raises(openai.BadRequestError) as got:
        client.post("/chat/completions", cast_to=object, body=body)
    with pytest.raises(openai.BadRequestError) as direct:
        upstream(stage).post("/chat/completions", cast_to=object, body=body)
    assert got.value.response.content == direct.value.response.content
    assert got.value.response.json()["error"]["code"] == 400, "llama.cpp writes a number where OpenAI writes a word"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_a_plain_status_of_the_upstream_becomes_its_exception(plain: Connection, recorder: Recorder, status: int, error):
    body = b'{"error": {"message": "from upstream", "type": "t", "code": "upstreams_own"}}'
    recorder.answer = Answer(status, {"Content-Type": "application/json"}, body)
    client = plain.client(plain.gateway.key(), max_retries=0)
    with pytest.raises(error) as passed:
        client.chat.completions.create(model="recorded", **SHORT)
    assert (passed.value.status_code, passed.value.code) == (status, "upstreams_own")
    assert passed.value.response.content == body


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_refuses_the_gateways_credential_is_not_the_clients_fault(
    plain: Connection, recorder: Recorder, status: int
):
    recorder.answer = Answer(status, {"Content-Type": "application/json", "WWW-Authenticate": "Bearer"}, b'{"error": {}}')
    with pytest.raises(openai.InternalServerError) as passed:
        plain.client(plain.gateway.key(), max_retries=0).chat.completions.create(model="recorded", **SHORT)
    assert (passed.value.status_code, passed.value.code) == (502, "upstream_rejected")
    assert "www-authenticate" not in passed.value.response.headers


def test_a_refusal_is_asked_once_and_an_overload_again(plain: Connection, recorder: Recorder):
    client = plain.client(plain.gateway.key("--model-access", "inclusive", "--model", "recorded"))
    before = plain.gateway.counter("keygate_requests_total", outcome="model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="tiny-a", **SHORT)
    assert plain.gateway.counter("keygate_requests_total", outcome="model_not_found") == before + 1
    recorder.answer = Answer(503, {"Content-Type": "application/json", "Retry-After": "0"}, b"{}")
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="recorded", **SHORT)
    assert len(recorder.requests) == 3, "the library tries a 503 three times"


# Streams that end early


def begin_endless(connection: Connection, key, stage: Stage):
    """A stream that would go on for long, read up to its fifth chunk; and its client."""
    eventually(lambda: stage.a.generating() == 0, "the model is idle", within=40)
    client = connection.client(key, max_retries=0)
    stream = client.chat.completions.create(model="tiny-a", stream=True, extra_body=ENDLESS_EXTRA, **ENDLESS)
    chunks = iter(stream)
    for _ in range(5):
        next(chunks)
    assert stage.a.generating() == 1
    return client, stream, chunks


REVOCATIONS = {
    "deleted": (lambda gateway, key: gateway.delete(key), "invalid_api_key"),
    "disabled": (lambda gateway, key: gateway.run("keys", "disable", key.id), "invalid_api_key"),
    "kept from the model": (
        lambda gateway, key: gateway.run("keys", "update", key.id, "--model-access", "inclusive", "--model", "tiny-b"),
        "model_not_found",
    ),
    "kept from the network": (
        lambda gateway, key: gateway.run("keys", "update", key.id, "--allow-from", "192.0.2.0/24"),
        "ip_not_authorized",
    ),
}


@pytest.mark.parametrize("how", REVOCATIONS)
def test_a_stream_whose_key_is_revoked_raises_and_its_generation_stops(connection: Connection, stage: Stage, how: str):
    revoke, code = REVOCATIONS[how]
    key = connection.gateway.key()
    _, _, chunks = begin_endless(connection, key, stage)
    revoke(connection.gateway, key)
    revoked = time.monotonic()
    with pytest.raises(openai.APIError) as raised:
        for _ in chunks:
            assert time.monotonic() - revoked < ENDED, "chunks still arrive"
    assert time.monotonic() - revoked < ENDED
    assert raised.value.code == code
    eventually(lambda: stage.a.generating() == 0, "llama.cpp stopped generating", within=RELEASED)
    assert time.monotonic() - revoked < RELEASED


def test_a_stream_whose_key_expires_raises(connection: Connection, stage: Stage):
    end = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=6)
    key = connection.gateway.key("--expires", end.strftime("%Y-%m-%dT%H:%M:%SZ"))
    _, _, chunks = begin_endless(connection, key, stage)
    with pytest.raises(openai.APIError) as raised:
        for _ in chunks:
            pass
    late = datetime.datetime.now(datetime.UTC) - end
    assert datetime.timedelta() <= late < datetime.timedelta(seconds=ENDED)
    assert raised.value.code == "expired_api_key"
    eventually(lambda: stage.a.generating() == 0, "llama.cpp stopped generating", within=RELEASED)


def test_a_request_that_waits_for_its_answer_is_refused_when_its_key_is_deleted(
    connection: Connection, recorder: Recorder
):
    key = connection.gateway.key()
    recorder.answer = silence = Silence()

    async def deleted_while_waiting() -> None:
        async with connection.async_client(key, max_retries=0) as client:
            waiting = asyncio.create_task(client.chat.completions.create(model="recorded", **SHORT))
            assert await asyncio.to_thread(silence.begun.wait, 5)
            await asyncio.to_thread(connection.gateway.delete, key)
            deleted = time.monotonic()
            with pytest.raises(openai.AuthenticationError) as refused:
                await waiting
        assert time.monotonic() - deleted < ENDED
        assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")

    asyncio.run(deleted_while_waiting())
    assert silence.left.wait(ENDED), "the gateway still waits for the upstream"


def test_revoking_one_key_leaves_the_streams_of_others_alone(connection: Connection, stage: Stage):
    kept, deleted = connection.gateway.key(), connection.gateway.key()
    client = connection.client(kept)
    stream = iter(client.chat.completions.create(
        model="tiny-b", stream=True, messages=QUESTION, temperature=0, max_tokens=120, extra_body=ENDLESS_EXTRA
    ))
    next(stream)
    connection.gateway.delete(deleted)
    assert stage.b.generating() == 1
    assert list(stream)[-1].choices[0].finish_reason == "length"


def test_a_client_that_leaves_stops_the_generation(connection: Connection, stage: Stage):
    client, stream, _ = begin_endless(connection, connection.gateway.key(), stage)
    left = time.monotonic()
    stream.close()
    # Over HTTP/2 this library only forgets a stream that it closes; its connection's end is what arrives.
    client.close()
    eventually(lambda: stage.a.generating() == 0, "llama.cpp stopped generating", within=RELEASED)
    assert time.monotonic() - left < RELEASED


def test_a_client_that_leaves_before_the_answer_begins_frees_the_upstream(connection: Connection, recorder: Recorder):
    recorder.answer = silence = Silence()
    client = connection.client(connection.gateway.key(), max_retries=0)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(model="recorded", **SHORT)
    left = time.monotonic()
    client.close()
    assert silence.begun.is_set()
    assert silence.left.wait(ENDED), "the gateway still waits for the upstream"
    assert time.monotonic() - left < ENDED
