"""What servers in Python read in a request: FastAPI's routes, query, bodies and forms (Starlette, python-multipart),
and besides json, pydantic, orjson, msgspec, and Werkzeug's forms. Prints `listening HOST:PORT`, and answers every request
with what was read in it."""

import asyncio
import contextlib
import io
import json
import socket
import sys
from typing import Annotated, Any

import msgspec
import orjson
import uvicorn
import werkzeug
from fastapi import FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

JSON_ROUTES, FORM_ROUTES = (argument.split(",") for argument in sys.argv[1:3])


class Payload(BaseModel):
    model_config = ConfigDict(extra="allow")
    model: str | None = None


class Struct(msgspec.Struct):
    model: str | None = None


def told(model: Any) -> str | None:
    """A model as it is told: text as it is, nothing as null, anything else so that it equals no name."""
    return model if model is None or isinstance(model, str) else f"not text: {model!r}"


def only(models: list) -> str | None:
    """Several fields are as wrong as another one: which counts is anybody's guess."""
    return f"several: {models!r}" if len(models) > 1 else told(next(iter(models), None))


def field(document: Any) -> Any:
    return document.get("model") if isinstance(document, dict) else None


JSON_READERS = {
    "json": lambda body: field(json.loads(body)), "pydantic": lambda body: Payload.model_validate_json(body).model,
    "orjson": lambda body: field(orjson.loads(body)), "msgspec, struct":
    lambda body: msgspec.json.decode(body, type=Struct).model, "msgspec":
    lambda body: field(msgspec.json.decode(body)),
}


def werkzeug_form(body: bytes, content_type: str) -> str | None:
    environ = {
        "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": content_type,
        "REQUEST_METHOD": "POST",
    }
    request = werkzeug.Request(environ)
    return only(request.form.getlist("model") + request.files.getlist("model"))


def reading(read, *arguments) -> Any:
    try:
        return told(read(*arguments))
    except Exception as fault:  # Whatever a library raises is its refusal.
        return {"refused": f"{type(fault).__name__}: {fault}"}


def answer(request: Request, served: str, readings: dict) -> JSONResponse:
    body = request.scope["whole_body"]
    if served in JSON_ROUTES:
        readings |= {name: reading(read, body) for name, read in JSON_READERS.items()}
    else:
        readings["werkzeug"] = reading(werkzeug_form, body, request.headers.get("content-type", ""))
    query = {"starlette": request.query_params.get("model")}
    return Escaped({"served": served, "query": query, "body": readings})


class Escaped(JSONResponse):
    """A name may hold half a surrogate pair, which only an escape can say."""
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


class WholeBody:
    """Keeps the body beside the request, for those who read it after FastAPI did."""
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        scope["whole_body"] = body
        pieces = [{"type": "http.request", "body": body, "more_body": False}]

        async def again():
            return pieces.pop() if pieces else await receive()

        await self.app(scope, again, send)


app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


def serve_json(route: str) -> None:
    @app.post(route)
    async def _(request: Request, payload: Payload):
        return answer(request, route, {"fastapi": told(payload.model)})


def serve_form(route: str) -> None:
    @app.post(route)
    async def _(request: Request, model: Annotated[Any, Form()] = None):
        async with request.form() as form:
            return answer(request, route, {"fastapi": told(model), "starlette": only(form.getlist("model"))})


for route in JSON_ROUTES:
    serve_json(route)
for route in FORM_ROUTES:
    serve_form(route)


@app.exception_handler(RequestValidationError)
async def refused(request: Request, fault: RequestValidationError):
    return answer(request, request.scope["route"].path, {"fastapi": {"refused": str(fault)}})


@app.exception_handler(400)
async def malformed(request: Request, fault):
    # Starlette's refusal of a form, or FastAPI's of a body that is no JSON.
    return answer(request, request.scope["route"].path, {"fastapi": {"refused": str(fault.detail)}})


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    server = uvicorn.Server(
        uvicorn.Config(
            WholeBody(app), log_level="warning", timeout_keep_alive=60, http="httptools", access_log=False
        )
    )
    serving = asyncio.create_task(server.serve([listener]))
    print(f"listening {host}:{port}", flush=True)
    # The parent's end of standard input closes when the parent ends, whatever ends it.
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    with contextlib.suppress(asyncio.CancelledError):
        await serving


asyncio.run(main())
