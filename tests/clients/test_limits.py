"""Limits and budgets as the official OpenAI and Anthropic libraries see them."""

import anthropic
import httpx
import openai
import pytest

from conftest import SHORT, Connection
from processes import Key, eventually


def test_a_key_that_is_too_fast_is_a_rate_limit_error_with_the_time_to_wait(connection: Connection):
    key = connection.gateway.key("--requests-per-minute", "1")
    client = connection.client(key).with_options(max_retries=0)
    first = client.chat.completions.with_raw_response.create(model="tiny-a", **SHORT)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as raised:
        client.chat.completions.create(model="tiny-a", **SHORT)
    error = raised.value
    assert (error.code, error.type) == ("rate_limit_exceeded", "requests")
    assert 1 <= int(error.response.headers["retry-after"]) <= 61
    assert int(error.response.headers["retry-after-ms"]) <= 61_000


def test_the_library_waits_as_long_as_it_is_told_and_tries_again(connection: Connection):
    """As many requests run as may: the library waits a second, and then there is room."""
    key = connection.gateway.key("--concurrent-requests", "1")
    client = connection.client(key)
    stream = client.chat.completions.create(model="tiny-a", stream=True, **SHORT)
    with pytest.raises(openai.RateLimitError):
        client.with_options(max_retries=0).chat.completions.create(model="tiny-a", **SHORT)
    list(stream)
    eventually(lambda: own(connection, key)["limits"][0]["remaining"] == 1, "the place is free")
    assert client.chat.completions.create(model="tiny-a", **SHORT).choices


def test_a_spent_budget_is_not_tried_again(connection: Connection):
    key = connection.gateway.key("--budget", "requests=1/month")
    client = connection.client(key)
    client.chat.completions.create(model="tiny-a", **SHORT)
    eventually(lambda: own(connection, key)["budgets"][0]["used"] == 1, "the budget is settled")
    sent: list[httpx.Request] = []
    counting = openai.DefaultHttpxClient(event_hooks={"request": [sent.append]}, **connection.transport)
    with pytest.raises(openai.RateLimitError) as raised:
        client.with_options(max_retries=5, http_client=counting).chat.completions.create(model="tiny-a", **SHORT)
    assert raised.value.code == "insufficient_quota"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert len(sent) == 1


def own(connection: Connection, key: Key) -> dict:
    """What the key sees of itself."""
    headers = {"Authorization": f"Bearer {key.token}"}
    with httpx.Client(**connection.transport) as client:
        return client.get(f"{connection.base_url}/key", headers=headers).json()


def test_anthropics_library_knows_its_own_headers_and_error(connection: Connection):
    key = connection.gateway.key("--requests-per-minute", "1")
    client = anthropic.Anthropic(
        base_url=connection.gateway.url, api_key=key.token, max_retries=0,
        http_client=anthropic.DefaultHttpxClient(**connection.transport),
    )
    ask = {"model": "tiny-a", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    first = client.messages.with_raw_response.create(**ask)
    assert first.headers["anthropic-ratelimit-requests-limit"] == "1"
    with pytest.raises(anthropic.RateLimitError) as raised:
        client.messages.create(**ask)
    assert raised.value.response.json()["error"]["type"] == "rate_limit_error"
    assert int(raised.value.response.headers["retry-after"]) >= 1
