"""What more servers in Python read in a request: Tornado's routes, query and forms, and beside them the JSON and forms
of Bottle and Falcon. Prints `listening HOST:PORT`, and answers every request with what was read in it."""

import asyncio
import io
import json
import socket
import sys

import bottle
import falcon
import falcon.testing
import tornado.httpserver
import tornado.web

JSON_ROUTES, FORM_ROUTES = (argument.split(",") for argument in sys.argv[1:3])
bottle.BaseRequest.MEMFILE_MAX = 1 << 26
# A whole body, so that a parser's limit hides no reading.
FALCON_FORMS = falcon.media.MultipartFormHandler()
FALCON_FORMS.parse_options.max_body_part_count = 0
FALCON_FORMS.parse_options.max_body_part_buffer_size = 1 << 26
FALCON_FORMS.parse_options.max_body_part_headers_size = 1 << 16


def told(model) -> str | None:
    """A model as it is told: text as it is, nothing as null, anything else so that it equals no name."""
    return model if model is None or isinstance(model, str) else f"not text: {model!r}"


def only(models: list) -> str | None:
    """Several fields are as wrong as another one: which counts is anybody's guess."""
    return f"several: {models!r}" if len(models) > 1 else told(next(iter(models), None))


def field(document) -> str | None:
    return told(document.get("model")) if isinstance(document, dict) else None


def environ(request) -> dict:
    return {
        "wsgi.input": io.BytesIO(request.body), "CONTENT_LENGTH": str(len(request.body)),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""), "REQUEST_METHOD": "POST", "PATH_INFO": "/",
        "QUERY_STRING": "",
    }


def falcon_request(request) -> falcon.Request:
    options = falcon.RequestOptions()
    options.media_handlers[falcon.MEDIA_MULTIPART] = FALCON_FORMS
    made = falcon.testing.create_environ(
        method="POST", headers={"Content-Type": request.headers.get("Content-Type", "")}, body=request.body
    )
    return falcon.Request(made, options=options)


def falcon_form(request) -> str | None:
    models = []
    for part in falcon_request(request).get_media():
        content = part.stream.read()
        # A part with a filename is a file to those who ask; all that `get_text` refuses is no name.
        if part.name == "model":
            models.append({"file": part.filename} if part.filename else content.decode())
    return only(models)


def bottle_form(request) -> str | None:
    read = bottle.BaseRequest(environ(request)).POST
    return only([
        model if isinstance(model, str) else {"file": model.raw_filename} for model in read.getall("model")
    ])


def tornado_form(request) -> str | None:
    fields, files = {}, {}
    tornado.httputil.parse_body_arguments(
        request.headers.get("Content-Type", ""), request.body, fields, files, request.headers
    )
    models = [model.decode() for model in fields.get("model", [])]
    return only([*models, *({"file": file.filename} for file in files.get("model", []))])


JSON_READERS = {
    "tornado": lambda request: field(tornado.escape.json_decode(request.body)),
    "bottle": lambda request: field(bottle.BaseRequest(environ(request)).json),
    "falcon": lambda request: field(falcon_request(request).get_media()),
}
FORM_READERS = {"tornado": tornado_form, "bottle": bottle_form, "falcon": falcon_form}


# Reads the body itself, so that what Tornado refuses is seen by the others.
@tornado.web.stream_request_body
class Reader(tornado.web.RequestHandler):
    def initialize(self, readers: dict) -> None:
        self.readers = readers
        self.pieces = []

    def data_received(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def post(self) -> None:
        self.request.body = b"".join(self.pieces)
        readings = {}
        for name, read in self.readers.items():
            try:
                readings[name] = read(self.request)
            except Exception as fault:  # Whatever a library raises is its refusal.
                readings[name] = {"refused": f"{type(fault).__name__}: {fault}"}
        query = self.request.query_arguments.get("model")
        query = {"tornado": query and query[0].decode(errors="replace")}
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"served": self.request.path, "query": query, "body": readings}))


async def main() -> None:
    routes = [(JSON_ROUTES, JSON_READERS), (FORM_ROUTES, FORM_READERS)]
    app = tornado.web.Application(
        [(route + "$", Reader, {"readers": readers}) for paths, readers in routes for route in paths],
        log_function=lambda handler: None,
    )
    server = tornado.httpserver.HTTPServer(app, max_body_size=1 << 26, max_buffer_size=1 << 27)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server.add_socket(listener)
    host, port = listener.getsockname()
    print(f"listening {host}:{port}", flush=True)
    # The parent's end of standard input closes when the parent ends, whatever ends it.
    await asyncio.to_thread(sys.stdin.read)
    server.stop()


asyncio.run(main())
