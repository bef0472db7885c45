"""LangChain's OpenAI classes."""

import asyncio

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from conftest import ENDLESS_EXTRA, Connection
from processes import Key, eventually
from stage import Stage


def chat(connection: Connection, key: Key | str, model: str = "tiny-a", **options) -> ChatOpenAI:
    client = openai.DefaultHttpxClient(**connection.transport)
    connection.clients.append(client)
    return ChatOpenAI(
        model=model,
        api_key=key if isinstance(key, str) else key.token,
        base_url=connection.base_url,
        http_client=client,
        temperature=0,
        **({"max_completion_tokens": 24} | options),
    )


def test_invoke_and_stream_give_the_same_text(connection: Connection):
    model = chat(connection, connection.gateway.key())
    answer = model.invoke("Name three colours.")
    pieces = [piece.content for piece in model.stream("Name three colours.")]
    assert len(answer.content) > 20
    assert len(pieces) > 10
    assert "".join(pieces) == answer.content


def test_the_async_calls_work(connection: Connection):
    key = connection.gateway.key()

    async def calls():
        async with openai.DefaultAsyncHttpxClient(**connection.transport) as client:
            model = chat(connection, key, http_async_client=client)
            pieces = [piece.content async for piece in model.astream("Name three colours.")]
            answers = await model.abatch(["Say one.", "Say two.", "Say three."])
            return pieces, answers

    pieces, answers = asyncio.run(calls())
    assert len(pieces) > 10
    assert all(answer.content for answer in answers)


def test_embeddings_of_several_texts_arrive_in_order(connection: Connection, stage: Stage):
    client = openai.DefaultHttpxClient(**connection.transport)
    connection.clients.append(client)
    embeddings = OpenAIEmbeddings(
        model="tiny-b",
        api_key=connection.gateway.key().token,
        base_url=connection.base_url,
        http_client=client,
        # Else it cuts texts into tokens of OpenAI's own vocabulary first.
        check_embedding_ctx_length=False,
    )
    texts = ["a key", "a gate", "a wall"]
    direct = httpx.post(f"{stage.b.url}/v1/embeddings", json={"model": "tiny-b", "input": texts}, timeout=30).json()
    got = embeddings.embed_documents(texts)
    for vector, wanted in zip(got, direct["data"], strict=True):
        assert vector == pytest.approx(wanted["embedding"], abs=1e-6)


def test_refusals_raise_the_librarys_exceptions(connection: Connection):
    key = connection.gateway.key("--model-access", "inclusive", "--model", "tiny-b")
    with pytest.raises(openai.NotFoundError) as refused:
        chat(connection, key).invoke("Hello")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        list(chat(connection, key).stream("Hello"))
    with pytest.raises(openai.AuthenticationError) as refused:
        chat(connection, "wrong").invoke("Hello")
    assert refused.value.code == "invalid_api_key"


def test_a_stream_whose_key_is_deleted_raises_and_its_generation_stops(connection: Connection, stage: Stage):
    eventually(lambda: stage.a.generating() == 0, "the model is idle", within=40)
    key = connection.gateway.key()
    model = chat(connection, key, max_completion_tokens=1500, max_retries=0, extra_body=ENDLESS_EXTRA)
    stream = model.stream("Name three colours.")
    for _ in range(5):
        next(stream)
    assert stage.a.generating() == 1
    connection.gateway.delete(key)
    with pytest.raises(openai.APIError) as raised:
        for _ in stream:
            pass
    assert raised.value.code == "invalid_api_key"
    eventually(lambda: stage.a.generating() == 0, "llama.cpp stopped generating", within=1.5)
