"""Anthropic's official library for Python, as Claude Code and others use it, in front of a real llama.cpp server."""

import anthropic
import pytest

from conftest import ENDLESS_EXTRA, Connection
from processes import Key, eventually
from recorder import Answer, Recorder
from stage import ELSEWHERE, Stage

QUESTION = [{"role": "user", "content": "Name three colours."}]
SHORT = {"model": "tiny-a", "messages": QUESTION, "max_tokens": 16, "extra_body": {"temperature": 0}}


def client(connection: Connection, key: Key | str, header: str = "x-api-key", **options) -> anthropic.Anthropic:
    """The library with a key in either header; closed when the test ends."""
    token = key if isinstance(key, str) else key.token
    # `auth_token` is what ANTHROPIC_AUTH_TOKEN sets.
    credential = {"api_key": token} if header == "x-api-key" else {"api_key": None, "auth_token": token}
    made = anthropic.Anthropic(
        base_url=connection.gateway.url,
        http_client=anthropic.DefaultHttpxClient(**connection.transport),
        timeout=30,
        max_retries=0,
        **credential,
        **options,
    )
    connection.clients.append(made)
    return made


@pytest.fixture(autouse=True)
def no_credential_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def upstream(stage: Stage) -> anthropic.Anthropic:
    """The model without the gateway."""
    return anthropic.Anthropic(api_key="none", base_url=stage.a.url, timeout=30)


def check_error(error: anthropic.APIStatusError, kind: str, part: str) -> None:
    """Its body is Anthropic's, its message says what is wrong, and its id is the one in the header."""
    assert error.body["type"] == "error"
    assert error.body["error"]["type"] == kind
    assert part in error.body["error"]["message"], error.body
    assert error.request_id and error.request_id == error.body["request_id"]
    assert error.response.headers["request-id"] == error.response.headers["x-request-id"] == error.request_id


# What works


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_message_is_answered_as_the_upstream_answers_it(connection: Connection, stage: Stage, header: str):
    got = client(connection, connection.gateway.key(), header).messages.create(**SHORT)
    direct = upstream(stage).messages.create(**SHORT)
    assert got.content == direct.content
    assert len(got.content[0].text) > 10
    # llama.cpp sends no id in a header, so this is the gateway's.
    assert got._request_id.startswith("req_")


def test_a_streamed_message_is_the_same_text_in_pieces(connection: Connection, stage: Stage):
    with client(connection, connection.gateway.key()).messages.stream(**SHORT) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 5
    assert "".join(pieces) == final.content[0].text == upstream(stage).messages.create(**SHORT).content[0].text


def test_tokens_are_counted(connection: Connection, stage: Stage):
    asked = {"model": "tiny-a", "messages": QUESTION}
    got = client(connection, connection.gateway.key()).messages.count_tokens(**asked)
    assert got.input_tokens == upstream(stage).messages.count_tokens(**asked).input_tokens > 5


def test_the_models_listed_are_those_that_the_key_may_use(connection: Connection):
    key = connection.gateway.key("--model-access", "inclusive", "--model", "tiny-a", "--model", "tiny-b")
    models = client(connection, key).models
    assert sorted(model.id for model in models.list()) == ["tiny-a", "tiny-b"]
    page = models.list()
    assert not page.has_next_page()
    got = models.retrieve("tiny-a")
    assert (got.id, got.display_name, got.type) == ("tiny-a", "tiny-a", "model")
    assert got.created_at.year > 2020
    with pytest.raises(anthropic.NotFoundError):
        models.retrieve("recorded")


def test_the_librarys_own_headers_reach_the_upstream_and_its_credential_does_not(plain: Connection, recorder: Recorder):
    recorder.answer = Answer(body=b'{"id":"m","type":"message","role":"assistant","content":[],"model":"recorded"}')
    for header in ("x-api-key", "authorization"):
        recorder.requests.clear()
        key = plain.gateway.key()
        beta = {"anthropic-beta": "context-1m-2025-08-07"}
        client(plain, key, header).messages.create(
            model="recorded", messages=QUESTION, max_tokens=5, extra_headers=beta
        )
        sent = recorder.only()
        assert sent.target == "/v1/messages"
        (version,) = sent.header("anthropic-version")
        assert version.startswith("20")
        assert sent.header("anthropic-beta") == ["context-1m-2025-08-07"]
        assert sent.header("x-stainless-lang") == ["python"]
        assert sent.header("x-api-key") == []
        assert not sent.holds(key.token)


# What is refused


def test_a_key_that_is_unknown_expired_or_missing_is_an_authentication_error(connection: Connection):
    for header in ("x-api-key", "authorization"):
        for token, part in [("kg_nobody", "key"), ("sk-nobody", "key"), (ELSEWHERE, "expired")]:
            asking = client(connection, token, header)
            for ask in (
                lambda: asking.messages.create(**SHORT),
                lambda: asking.messages.create(stream=True, **SHORT),
                lambda: asking.messages.count_tokens(model="tiny-a", messages=QUESTION),
            ):
                with pytest.raises(anthropic.AuthenticationError) as error:
                    ask()
                check_error(error.value, "authentication_error", part)
                assert token not in str(error.value)


def test_a_model_that_is_not_allowed_is_a_not_found_error(connection: Connection):
    asking = client(connection, connection.gateway.key("--model-access", "inclusive", "--model", "tiny-b"))
    for ask in (
        lambda: asking.messages.create(**SHORT),
        lambda: asking.messages.create(stream=True, **SHORT),
        lambda: asking.messages.count_tokens(model="tiny-a", messages=QUESTION),
    ):
        with pytest.raises(anthropic.NotFoundError) as error:
            ask()
        check_error(error.value, "not_found_error", "model")


def test_a_path_that_is_not_served_is_a_not_found_error(plain: Connection):
    with pytest.raises(anthropic.NotFoundError) as error:
        client(plain, plain.gateway.key()).messages.batches.list()
    check_error(error.value, "not_found_error", "")


def test_a_revoked_streams_error_is_raised_and_says_why(connection: Connection, stage: Stage):
    key = connection.gateway.key()
    with pytest.raises(anthropic.APIStatusError) as error:
        with client(connection, key).messages.stream(
            model="tiny-a", messages=QUESTION, max_tokens=1500, extra_body=ENDLESS_EXTRA
        ) as stream:
            texts = stream.text_stream
            assert next(texts)
            connection.gateway.delete(key)
            list(texts)
    assert error.value.body["error"]["type"] == "authentication_error"
    eventually(lambda: stage.a.generating() == 0, "the upstream is free")
