"""The usage of streams that nobody asked for: the official OpenAI library sees none of it, and the gateway's database has
what the upstream counted."""

import json
import sqlite3

import openai

from conftest import SHORT, Connection
from processes import Gateway, eventually
from recorder import Exchange, Recorded, Recorder
from stage import Stage


def records(gateway: Gateway, key_id: str) -> list[dict]:
    """The key's usage records, as any tool may read them from the file."""
    database = sqlite3.connect(f"file:{gateway.folder / 'keygate.db'}?mode=ro", uri=True)
    try:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM usage_records WHERE key_id = ? ORDER BY id", (key_id,))
        return [dict(row) for row in rows]
    finally:
        database.close()


def only_record(gateway: Gateway, key_id: str) -> dict:
    eventually(lambda: len(records(gateway, key_id)) == 1, "the record is written")
    return records(gateway, key_id)[0]


def test_a_stream_is_counted_and_its_client_sees_nothing_of_it(connection: Connection, stage: Stage):
    key = connection.gateway.key()
    stream = connection.client(key).chat.completions.create(model="tiny-a", stream=True, **SHORT)
    chunks = list(stream)
    assert all(chunk.choices for chunk in chunks), "the extra event was passed on"
    assert all(chunk.usage is None for chunk in chunks)
    direct = openai.OpenAI(api_key="none", base_url=f"{stage.a.url}/v1", timeout=30)
    direct = direct.chat.completions.create(model="tiny-a", **SHORT)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == direct.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == direct.choices[0].finish_reason
    record = only_record(connection.gateway, key.id)
    assert record["input_tokens"] == direct.usage.prompt_tokens
    assert record["output_tokens"] == direct.usage.completion_tokens
    assert (record["certainty"], record["end_kind"]) == ("exact", "complete")


def test_a_client_that_asks_gets_the_usage(connection: Connection):
    key = connection.gateway.key()
    stream = connection.client(key).chat.completions.create(
        model="tiny-a", stream=True, stream_options={"include_usage": True}, **SHORT
    )
    last = list(stream)[-1]
    assert last.choices == []
    record = only_record(connection.gateway, key.id)
    assert (record["input_tokens"], record["output_tokens"]) == (last.usage.prompt_tokens, last.usage.completion_tokens)


def test_an_extra_event_in_any_pieces_is_not_seen(connection: Connection, recorder: Recorder):
    """As vLLM writes it."""

    def event(**members) -> bytes:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "recorded"} | members
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def delta(text: str, reason: str | None = None) -> bytes:
        return event(choices=[{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}])

    usage = {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    events = delta("One") + delta(" two") + delta("", "stop") + event(choices=[], usage=usage) + b"data: [DONE]\n\n"

    def answer(recorded: Recorded, exchange: Exchange) -> None:
        assert json.loads(recorded.body)["stream_options"] == {"include_usage": True}
        exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for at in range(0, len(events), 11):
            exchange.chunk(events[at : at + 11])
        exchange.finish()

    recorder.answer = answer
    key = connection.gateway.key()
    messages = [{"role": "user", "content": "Count."}]
    stream = connection.client(key).chat.completions.create(model="recorded", stream=True, messages=messages)
    chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["One", " two", ""]
    assert all(chunk.usage is None for chunk in chunks)
    record = only_record(connection.gateway, key.id)
    assert (record["input_tokens"], record["input_cached_tokens"], record["output_tokens"]) == (9, 8, 3)
