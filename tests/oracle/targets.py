"""Paths and queries: every way to write a path that somebody routes to the same place, every way to name a model in a
query."""

import random
from collections.abc import Iterator

from case import Case, JSON, Kind

CHAT = "/v1/chat/completions"
BODY = b'{"model":"good","messages":[]}'
BAD = b'{"model":"bad"}'


def at(target: str, kind: Kind = Kind.HOSTILE, body: bytes = BODY, **more) -> Case:
    return Case(f"target {target!r:.120}", target, JSON, body, kind, **more)


def paths(json_routes: list[str]) -> Iterator[Case]:
    for route in json_routes:
        yield at(route, Kind.ORDINARY)
        yield at(route, body=BAD)
    for path in (
        "/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions", "/v1/chat/completions/",
        "/v1/chat/completions//", "/./v1/chat/completions", "/v1/./chat/completions", "/v1/x/../chat/completions",
        "/../v1/chat/completions", "/v1/chat/completions/.", "/v1/chat/completions/..", "/v1/chat/completions/x/..",
        "/v1/%63hat/completions", "/v1%2Fchat%2Fcompletions", "/v1/chat%2fcompletions", "/v1/chat/completions%20",
        "/v1/chat/completions%00", "/v1/chat/completions%2f", "/v1/chat/completions%3Fx", "/v1/chat/completions%23",
        "/v1/chat/%2e/completions", "/v1/%2e%2e/v1/chat/completions", "/v1/chat/%252e/completions",
        "/%76%31/chat/completions", "/v1/chat/completions%", "/v1/chat/completions%zz", "/v1/chat/completions;x",
        "/v1/chat/completions;model=bad", "/v1/chat;x/completions", "/V1/chat/completions", "/v1/Chat/completions",
        "/v1/chat/COMPLETIONS", "\\v1\\chat\\completions", "/v1\\chat/completions", "/v1/chat\\completions",
        "/v1/chat/completions\\", "/v1/chat/completions#x", "/v1/chat/completions#?model=bad",
        "#/v1/chat/completions", "/v1/chat/completionsX", "/v1/chat", "/v1/", "/v1", "/", "", "*",
        "v1/chat/completions", "?", "/v1/chat/completıons", "/v1/chat/completions\udcff", "/v1/chat/completions\x7f",
        "/v1/chat/completions\x01", "/v1/chat/completions\t", "/v1/chat/completions x",
        "http://localhost/v1/chat/completions", "https://evil.example/v1/chat/completions",
        "//localhost/v1/chat/completions", "localhost:80", "/v1/chat/completions:x", "/v1/chat/completions,",
        "/v1/chat/completions&model=bad", "/v1/chat/completions=", "/v1/chat/completions|", "/v1/chat/completions^",
        "/v1/chat/completions`", "/v1/chat/completions'", "/v1/chat/completions\"", "/v1/chat/completions<x>",
        "/v1/chat/completions{x}", "/v1/chat/completions[0]", "/v1/chat/completions.json",
        "/v1/engines/bad/completions", "/openai/deployments/bad/chat/completions", "/v1/models/bad", "/invocations",
        "/inference/v1/generate", "/tokenize", "/pooling", "/score", "/rerank", "/classify", "/metrics", "/docs",
        "/openapi.json", "/v1/load_lora_adapter", "/sleep", "/collective_rpc", "/slots", "/props", "/models/load",
        "/api/chat", "/api/generate", "/v1/batches", "/v1/files", "/v1/fine_tuning/jobs", "/v1/assistants",
        "/v1/threads", "/v1/realtime", "/v1beta/models/bad:generateContent", "/model/bad/invoke",
        "/v1/completions/../chat/completions", "/completions", "/chat/completions", "/embeddings", "/infill",
        "/apply-template", "/v1/chat/completions/input_tokens", "/v1/responses/x",
    ):
        yield at(path)
        yield at(path, body=BAD)


def queries() -> Iterator[Case]:
    for query in (
        "", "api-version=2024-02-01", "a=b", "a=b&c=d", "a", "a=", "models=bad", "xmodel=bad", "model_=bad",
        "beta=true", "limit=20&after=model", "x=model", "x=a%26model%3Dbad", "%zz=1", "a=%ff", "a=ä", "modelx[]=1"
    ):
        yield at(f"{CHAT}?{query}", Kind.VALID)
    for query in (
        "model=bad", "model", "model=", "Model=bad", "MODEL=bad", "m%6fdel=bad", "m%6Fdel=bad", "%6d%6f%64%65%6c=bad",
        "a=b&model=bad", "a=b;model=bad", "a;model=bad", "model[]=bad", "model%5B%5D=bad", "model%5b]=bad",
        "model[0]=bad", "model[1]=bad", "model[a]=bad", "model[a][b]=bad", "model%5B0%5D=bad", "model[=bad",
        "model]=bad", "model[0=bad", "model.x=bad", "model%00=bad", "%00model=bad", "model+=bad", "+model=bad",
        "%20model=bad", "model%20=bad", "%09model=bad", "model%0a=bad", "[model]=bad", "%5Bmodel%5D=bad",
        "a&model=bad", "&model=bad", "&&model=bad", "?model=bad", "a?model=bad", "a=b?model=bad", "%26model=bad",
        "a%26model=bad", "a%3bmodel=bad", "model%3Dbad", "model==bad", "a=b#model=bad", "#model=bad", "model=bad#",
        "x=1,model=bad", "a=b|model=bad", "%256dodel=bad", "model%5B%5D%5B%5D=bad", "model[][]=bad", "model=good",
        "model=good&model=bad", "modeL[]=bad", "__proto__[model]=bad", "constructor[model]=bad", "a[model]=bad",
        "mod%65l%5B=bad", "ｍodel=bad", "m\u00f6del=bad", "&" * 2000 + "model=bad", "a=b&" * 1500 + "model=bad",
        "model\t=bad", "\x0bmodel=bad", "model%E2%80%8B=bad", "%EF%BB%BFmodel=bad", "%u006dodel=bad", "model%=bad",
        "%model=bad", "m%6=bad", "a=%&model=bad", "a=%zz&model=bad", "%zz;model=bad",
    ):
        yield at(f"{CHAT}?{query}")
        form = b'--XyZ\r\nContent-Disposition: form-data; name="model"\r\n\r\ngood\r\n--XyZ--\r\n'
        yield Case(
            f"form, query {query!r:.80}", f"/v1/audio/transcriptions?{query}",
            [("Content-Type", "multipart/form-data; boundary=XyZ")], form
        )


def methods() -> Iterator[Case]:
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "post", "Post", "QUERY", "TRACE"):
        yield at(CHAT, method=method)
    for name in (
        "X-HTTP-Method-Override", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix",
        "X-Litellm-Model", "Helicone-Target-Url", "X-Portkey-Config"
    ):
        yield Case(f"header {name}", CHAT, [*JSON, (name, "/v1/completions")], BODY, Kind.ORDINARY)


def mixtures(dice: random.Random, count: int) -> Iterator[Case]:
    pieces = [
        "/", "//", ".", "..", "%2f", "%2e", "%6d", "?", "&", ";", "=", "#", "model", "Model", "m%6fdel", "[]", "[0]",
        "%5b", "bad", "\\", "%00", "+", "%20", "v1", "chat", "%", "a=b", ":", "@", "~", "x"
    ]
    for _ in range(count):
        target = CHAT + dice.choice(["", "?", "?a=b&", "?a=b;"])
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(CHAT) - 4, len(target) + 1) if dice.random() < 0.7 else len(target)
            target = target[:place] + dice.choice(pieces) + target[place:]
        yield at(target)


def corpus(dice: random.Random, count: int, json_routes: list[str]) -> Iterator[Case]:
    for part in (paths(json_routes), queries(), methods(), mixtures(dice, count)):
        yield from part
