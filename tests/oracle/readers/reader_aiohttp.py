"""What servers on aiohttp read in a request: its routes, query, JSON and forms. Prints `listening HOST:PORT`, and
answers every request with what was read in it."""

import asyncio
import json
import socket
import sys

from aiohttp import web

JSON_ROUTES, FORM_ROUTES = (argument.split(",") for argument in sys.argv[1:3])


def told(model) -> str | None:
    return model if model is None or isinstance(model, str) else f"not text: {model!r}"


async def read_json(request: web.Request) -> str | None:
    document = json.loads(await request.text())
    return told(document.get("model")) if isinstance(document, dict) else None


async def read_form(request: web.Request) -> str | None:
    models = (await request.post()).getall("model", [])
    return f"several: {models!r}" if len(models) > 1 else told(next(iter(models), None))


def serve(route: str, read) -> web.RouteDef:
    async def handler(request: web.Request) -> web.Response:
        try:
            reading = await read(request)
        except Exception as fault:  # Whatever it raises is its refusal.
            await request.read()
            reading = {"refused": f"{type(fault).__name__}: {fault}"}
        query = {"aiohttp": request.query.get("model")}
        return web.json_response({"served": route, "query": query, "body": {"aiohttp": reading}})

    return web.post(route, handler)


async def main() -> None:
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([serve(route, read_json)
                    for route in JSON_ROUTES] + [serve(route, read_form) for route in FORM_ROUTES])
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=60)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    host, port = listener.getsockname()
    print(f"listening {host}:{port}", flush=True)
    # The parent's end of standard input closes when the parent ends, whatever ends it.
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


asyncio.run(main())
