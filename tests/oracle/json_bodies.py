"""JSON bodies: what RFC 8259 allows beside the model and what it does not, every way to name a model twice, and
mixtures of all of it from a seed."""

import json
import random
from collections.abc import Iterator

from case import Case, Kind, chat

# Values that every parser reads.
PLAIN = [
    "null", "true", "false", "0", "-1", "1.5", "1e3", "1E-3", "-0.25e+2", '""', '"text"',
    '"\\n\\t\\"\\\\\\/\\b\\f\\r"', "[]", "{}", "[1,2,[3]]", '{"a":{"b":[null]}}', '"\\u00e4\\u20ac"', '"ä€😀"',
    '"\\ud83d\\ude00"', '[{"role":"user","content":"bad"}]', '{"model":"bad"}', "[ 1 , 2 ]", '{ "a" : [ ] }',
    '"model\\":\\"bad"', '"{\\"model\\":\\"bad\\"}"', "123456789012", "\t[\r\n]", '{"model":{"model":"bad"}}',
]
# Values that the grammar allows and some parsers refuse: beyond a number's range, half of a surrogate pair, one name
# twice.
ODD = [
    "1e400", "-1e400", "1e-400", "9" * 400, "0." + "0" * 400 + "1", "1e99999", "-0", "-0e-0", "9" * 5000,
    "18446744073709551616", "-9223372036854775809", '"\\ud800"', '"\\udc00"', '"\\ude00\\ud83d"', '"\\ud800\\u0041"',
    '["\\uDADA"]', '{"\\ud800":1}', '"\\uD888\\u1234"', '{"a":1,"a":2}', '{"model":"good","model":"bad"}',
    '{"Model":"bad"}', '{"":0,"":1}', '"\\u0000"', '{"\\u0000":"\\u0000"}', '"\\uFFFE\\uFFFF\\uFEFF"', '"\ufeff"',
    '"\u2028\u2029"', '"\x7f"', '"\U0010ffff"', '"\ufffe"', '"\u0600"', "[" * 100 + "]" * 100,
    '{"a":' * 100 + "1" + "}" * 100,
]
# What is no JSON value: numbers.
NOT_NUMBERS = [
    "+1", "01", "-01", "00", "-", "+", "1.", ".5", "-.5", "1.e1", "1e", "1e+", "1E-", "1ee1", "1e1.0", "1.2.3",
    "0x10", "0b1", "0o7", "1_000", "1,5", "NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "Inf", "INF", "-inf",
    "1f", "1L", "1n", "0e", "0.e1", "١", "１", "1 000", "- 1", "1\x00", "1a", "++1", "--1", "1#", "0-1", "1+1",
]
# Strings.
NOT_STRINGS = [
    "'text'", '"', '"text', 'text"', '"\\"', '"\\x41"', '"\\a"', '"\\u"', '"\\u12"', '"\\u12G4"', '"\\U00e4"',
    '"\\u{41}"', '"\\uD83"', '"\\ud83d\\u"', '"\\\n"', '"\n"', '"\t"', '"\x00"', '"\x1f"', '"\x08"', '"a"b"',
    '"a" "b"', "`text`", '"\\', '"\\\'"', "text", "$", '"\\0"', '"\\101"', '“text”', '"\\é"', '"\\u-123"',
    '"\\u+123"', '"\\u 123"', '"\\u0x12"',
]
# Structures and words.
NOT_STRUCTURES = [
    "[", "]", "{", "}", "[}", "{]", "[1", "[1,", "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[1;2]", "[1:2]",
    '["a":1]', '{"a"}', '{"a":}', '{"a" 1}', '{"a":1,}', '{,"a":1}', "{a:1}", "{1:1}", "{'a':1}", '{"a":1 "b":2}',
    '{"a":1,,"b":2}', '{"a"::1}', '{"a":1;"b":2}', '{"a"=1}', '{"a"=>1}', '{null:1}', "{[]:1}", '{"a":1}}', "[1]]",
    "[[1]", '{"a":[}', '{"a":1,"b"}', "/**/1", "1/**/", "1//", "#1", "1#", "<!-- -->", "True", "False", "None",
    "NULL", "nul", "nulll", "tru", "truee", "undefined", "TRUE", "\ufeff1", "1\ufeff", "\u00a01", "\u30001", "\x0b1",
    "\x0c1", "\u20281", "\x00", "\x001", "1;", "1,2", "", "...", "[...]", "(1)", "@", "*", "&a", "!!int 1", "\\u0031",
    "\\n", "{}[]", "[]{}", "[] []", "a", "-a", "new Date()", "function(){}", "{/**/}", '{"a":/*comment*/1}',
    '{"a":"b"}#', '{"a":"b"}//', '{"a":"b"}/**/', '{"a":"b"}/**//',
]
# Bytes that are no UTF-8.
NOT_UTF8 = [
    b'"\x80"', b'"\xff"', b'"\xfe"', b'"\xc0\xaf"', b'"\xc1\xbf"', b'"\xe0\x80\xaf"', b'"\xe4"', b'"\xc3"',
    b'"\xed\xa0\x80"', b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xf4\x90\x80\x80"', b'"\xf8\x88\x80\x80\x80"',
    b'"\xfc\x84\x80\x80\x80\x80"', b'"\xf0\x80\x80\xaf"', b'"\xe2\x82"', b'"\xef\xbf"', b"\xff", b"\xe4", b"\x80",
    b'{"\xff":1}', b'["\\u00e4\xe4"]', b'"\xc0\x80"', b'"\xc0\xa2"',
]
AROUND = [('{"model":"good","x":', "}"), ('{"x":', ',"model":"good"}'), ('{"x":[1,', ',2],"model":"good"}'),
          ('{"x":{"a":', ',"b":[]},"model":"good","y":1}'), ]


def values() -> Iterator[Case]:
    """Each value beside the model, at the places where parsers look for the end of one."""
    kinds = [(PLAIN, Kind.ORDINARY), (ODD, Kind.VALID), (NOT_NUMBERS, Kind.HOSTILE), (NOT_STRINGS, Kind.HOSTILE),
             (NOT_STRUCTURES, Kind.HOSTILE), (NOT_UTF8, Kind.HOSTILE)]
    for all_values, kind in kinds:
        for value in all_values:
            raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            for place, (before, after) in enumerate(AROUND):
                yield chat(f"{value!r:.60} at place {place}", before.encode() + raw + after.encode(), kind)


# Every way to write the name that some parser folds, unescapes, trims or cuts down to `model`.
LIKE_MODEL = [
    "Model", "MODEL", "moDEL", "mODel", "modeL", r"\u004dodel", r"mode\u004c", " model", "model ", r"model\u0000",
    r"\u0000model", r"model\u0000x", r"model\u0000\u0000", r"Model\u0000", r"\u006dodel\u0000", r"mode\u0000l",
    r"models\u0000", r"x\u0000model", r"model\ud800", r"\ufeffmodel", "model\u200b", "\u200bmodel", "mod\u00adel",
    "ｍｏｄｅｌ", "mоdel", "model\u0301", "model[]", "model.", "$.model", "/model", "model=", "'model'", r"\"model\"",
    "model\t", r"\tmodel", r"model\n", r"model\u00a0", "model\u00a0", r"\u006dodel\u0000", "mode1", "models",
    "Models", "MODELS", r"model\u017f", "model\u017f", "fallbacks", "Fallbacks", r"fallbac\u212as", "lora_path",
    "LORA_PATH", "lora-path", "loraPath", "model_name", "engine", "deployment", "target_model", "model_id",
]
SPELLINGS = [
    r"\u006dodel", r"mode\u006c", r"\u006d\u006f\u0064\u0065\u006c", r"\u006D\u006F\u0064\u0065\u006C", r"m\u006fdel",
    r"mo\u0064el"
]


def names() -> Iterator[Case]:
    """The model named twice, otherwise, or nearly."""
    for spelling in SPELLINGS:
        yield chat(f"name {spelling}", f'{{"{spelling}":"good","x":1}}', Kind.ORDINARY)
        for body in (
            f'{{"model":"good","{spelling}":"bad"}}', f'{{"{spelling}":"bad","model":"good"}}',
            f'{{"{spelling}":"good","{spelling}":"bad"}}'
        ):
            yield chat(f"twice, {body}", body)
    for first in ('"good"', '"bad"', "null", '""', "1", "{}", '["bad"]'):
        for second in ('"good"', '"bad"', "null", '""', "[]", '["good"]', '{"model":"bad"}'):
            yield chat(f"model {first} then {second}", f'{{"model":{first},"x":[],"model":{second}}}')
    for name in LIKE_MODEL:
        for body in (
            f'{{"{name}":"bad"}}', f'{{"model":"good","{name}":"bad"}}', f'{{"{name}":"bad","model":"good"}}',
            f'{{"model":"good","{name}":null}}'
        ):
            yield chat(f"like model, {body}", body)
    for value in (
        "null", '""', "1", "true", "[]", '["good"]', "{}", '{"id":"good"}', '["good","bad"]', "1e999", '"good"x',
        "good", "'good'", '"good'
    ):
        yield chat(f"model {value}", f'{{"model":{value}}}')
    for body in (
        "{}", "[]", "", " ", "null", '"good"', "1", '[{"model":"good"}]', '[["model","good"]]',
        '{"x":{"model":"good"}}', "model=good", "model: good\n", "<model>good</model>"
    ):
        yield chat(f"no model, {body}", body)


# Names as the catalogue has them, and as they may be written. Some of them decode to `bad` in somebody's eyes.
CATALOGUE = [
    "good", "bad", "org/good", "gööd", "good 😀", "Bad", "BAD", "bad ", " bad", "bad\n", "bad\t", "bad\x00",
    "good\x00bad", "b\x00a\x00d\x00", "+AGIAYQBk-", "=62=61=64", "YmFk", "%62%61%64", "=?utf-8?q?bad?=", "&#98;ad",
    "\\u0062ad", "bad\u200b", "ｂａｄ", "\ufeffbad", "bad\ufeff", "bad\x7f", "'bad'", '"bad"', "bad;x", "bad, good",
    "a" * 100, "\U0010ffff", "\ufffd", "bad\ufffd",
]


def models() -> Iterator[Case]:
    """Every name of the catalogue, written plainly and escaped."""
    for model in CATALOGUE:
        # cJSON ends a text at U+0000: such a name is in no catalogue.
        kind = Kind.HOSTILE if model == "bad" or "\x00" in model else Kind.VALID if model != "good" else Kind.ORDINARY
        escaped = "".join(f"\\u{unit:04x}" for unit in _units(model))
        for text in (
            json.dumps(model,
                       ensure_ascii=False), json.dumps(model), f'"{escaped}"', json.dumps(model).replace("/", "\\/")
        ):
            yield chat(f"model {text:.80}", f'{{"stream":false,"model":{text}}}', kind, model)


def _units(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[at:at + 2], "big") for at in range(0, len(raw), 2)]


def documents() -> Iterator[Case]:
    """What stands before, behind and around the document, and how it is encoded."""
    good, bad = '{"model":"good"}', '{"model":"bad"}'
    for white in ("", " ", "\n", "\r\n", "\t", "  \r\n\t "):
        yield chat(
            f"white {white!r}",
            f'{white}{{{white}"model"{white}:{white}"good"{white},{white}"x"{white}:{white}[{white}]{white}}}{white}',
            Kind.ORDINARY
        )
    for behind in (
        bad, " " + bad, "\n" + bad, "\x00", "\x00" + bad, ",", "," + bad, "x", "}", "//", "/**/", "#", "\u00a0",
        "\x0b", "\x0c", "\x1a", "\ufeff", "\x1e" + bad, "\r\n\r\n" + bad, ";", "\\", "null", "[]", '""'
    ):
        yield chat(f"behind: {behind!r}", good + behind)
        yield chat(f"behind bad: {behind!r}", bad + behind.replace("bad", "good"))
    for before in (
        "\ufeff", "\x00", "\x0b", "\x0c", "\u00a0", "\u2028", "//\n", "/**/", ")]}',\n", "while(1);", "\x1e", "(",
        "x", ",", bad, bad + "\n", "\x00" * 3, "\x1b", "﻿ "
    ):
        yield chat(f"before: {before!r}", before + good)
    for encoding in (
        "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32", "utf-7", "utf-8-sig", "cp037"
    ):
        for text in (good, bad, '{"model":"good","x":"ä"}'):
            yield chat(f"{text} in {encoding}", text.encode(encoding))
    for levels in (2, 20, 60):
        yield chat(f"{levels} lists deep", '{"model":"good","x":' + "[" * levels + "]" * levels + "}", Kind.ORDINARY)
    for levels in (127, 128, 129, 500, 2000, 100_000):
        for opening, closing in (("[", "]"), ('{"x":', "}")):
            inner = "1" if closing == "}" else ""
            yield chat(
                f"{levels} {opening} deep",
                '{"model":"good","x":' + opening * levels + inner + closing * levels + "}",
                Kind.VALID if levels == 127 else Kind.HOSTILE
            )
            yield chat(f"{levels} {opening} deep, open", '{"model":"good","x":' + opening * levels)
    filler = '"messages":[{"role":"user","content":"' + "All work and no play. \\n" * 4000 + '"}]'
    yield chat("model behind much", f'{{{filler},"model":"good"}}', Kind.ORDINARY)
    yield chat("model before much", f'{{"model":"good",{filler}}}', Kind.ORDINARY)
    yield chat("two models around much", f'{{"model":"good",{filler},"model":"bad"}}')
    yield chat("many names", '{"model":"good",' + ",".join(f'"n{n}":{n}' for n in range(3000)) + "}", Kind.ORDINARY)
    yield chat(
        "many names, then another model",
        "{" + ",".join(f'"n{n}":{n}' for n in range(3000)) + ',"model":"good","model":"bad"}'
    )
    whole = '{"x":[1.5e-3,true,{"y":null,"z":"ä"}],"model":"go\\u006fd","n":-0}'.encode()
    for end in range(len(whole)):
        yield chat(f"cut off at {end}", whole[:end])
    for offset in range(len(good) + 1):
        yield chat(f"a NUL at {offset}", good[:offset] + "\x00" + good[offset:])


def media_types() -> Iterator[Case]:
    """Content-Type and Content-Encoding: what is said of the body."""
    good = b'{"model":"good"}'
    for value in (
        "application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8",
        'application/json; charset="utf-8"', "application/json; charset=utf8", 'APPLICATION/JSON; CHARSET="UTF8"',
        "application/json;", "application/json; charset=utf-8;", "application/json ; charset=utf8 ;"
    ):
        yield Case(f"type {value}", "/v1/chat/completions", [("Content-Type", value)], good, Kind.ORDINARY)
    for value in (
        "", "text/plain", "text/json", "application/x-json", "application/jsonp", "application/vnd.api+json",
        "application/json, text/plain", "text/plain, application/json", "application/json;;",
        "application/json; charset=utf-16", "application/json; charset=utf8; charset=utf-16",
        "application/json; charset=utf_8", "application/json; charset='utf-8'", "application/json; charset=utf-7",
        "application/json; charset=utf-8; charset=utf-16", "application/json; charset*=utf-8''utf-16",
        "application/json; boundary=x", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
        "application/json\t;charset=cp037", "application/json charset=utf-16", "json", "*/*",
    ):
        for body in (good, '{"model":"good"}'.encode("utf-16-le"), '{"model":"good"}'.encode("cp037"), b"model=good"):
            yield Case(f"type {value}", "/v1/chat/completions", [("Content-Type", value)], body)
    for headers in ([], [("Content-Type", "application/json")] * 2, [("Content-Type", "text/plain"),
                                                                     ("Content-Type", "application/json")],
                    [("Content_Type", "application/json")]):
        yield Case(f"types {headers}", "/v1/chat/completions", headers, good)
    for encoding in ("gzip", "deflate", "br", "zstd", "x", "identity, gzip", "utf-16", "aws-chunked"):
        yield Case(
            f"encoding {encoding}", "/v1/chat/completions", [("Content-Type", "application/json"),
                                                             ("Content-Encoding", encoding)], good
        )
    yield Case(
        "encoding identity", "/v1/chat/completions", [("Content-Type", "application/json"),
                                                      ("Content-Encoding", "identity")], good, Kind.ORDINARY
    )


def mixtures(dice: random.Random, count: int) -> Iterator[Case]:
    """Documents of all of the above: half of them plain, half with one twist."""
    invalid = NOT_NUMBERS + NOT_STRINGS + NOT_STRUCTURES
    twists = [
        lambda members: members.insert(dice.randrange(len(members) + 1), f'"{dice.choice(LIKE_MODEL)}":"bad"'), lambda
        members: members.insert(dice.randrange(len(members) + 1), f'"{dice.choice([*SPELLINGS, "model"])}":"bad"'),
        lambda members: members.insert(dice.randrange(len(members) + 1), f'"x":{dice.choice(invalid)}'),
        lambda members: members.append(dice.choice(["", " ", "//", '"x"', "x"])),
    ]
    for number in range(count):
        odd = dice.random() < 0.3
        members = [
            f'"{_name(dice)}"{_white(dice)}:{_white(dice)}{_value(dice, odd, 3)}' for _ in range(dice.randrange(6))
        ]
        name = dice.choice(["model"] * 3 + SPELLINGS)
        members.insert(
            dice.randrange(len(members) + 1), f'"{name}"{_white(dice)}:{_white(dice)}{_spelled(dice, "good")}'
        )
        twisted = dice.random() < 0.5
        if twisted and dice.random() < 0.6:
            dice.choice(twists)(members)
            body = _document(dice, members).encode("utf-8", "surrogatepass")
        else:
            body = _document(dice, members).encode("utf-8", "surrogatepass")
            if twisted:
                body = _broken(dice, body)
        # A field about the stream that comes twice is refused: servers take the first one or the last.
        twisted = twisted or sum(member.startswith('"stream"') for member in members) > 1
        kind = Kind.HOSTILE if twisted else Kind.VALID if odd else Kind.ORDINARY
        yield chat(f"mixture {number}", body, kind, chunked=dice.random() < 0.1)


def _white(dice: random.Random) -> str:
    return dice.choice(["", "", "", " ", "\n", "\r\n", "\t", "  "])


def _name(dice: random.Random) -> str:
    return dice.choice([
        "messages", "stream", "temperature", "x", "", "mode", "model_", "xmodel", "a b", "ä", "\\n", "max_tokens",
        "tools", "\\ud83d\\ude00", "metadata"
    ]) + dice.choice(["", "", str(dice.randrange(1000))])


def _spelled(dice: random.Random, text: str) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" if dice.random() < 0.1 else letter for letter in text) + '"'


def _value(dice: random.Random, odd: bool, depth: int) -> str:
    roll = dice.random()
    if depth and roll < 0.15:
        return "[" + ",".join(_value(dice, odd, depth - 1) for _ in range(dice.randrange(4))) + "]"
    if depth and roll < 0.3:
        members = (
            f'"{dice.choice(["model", "a", "b", "Model"])}{n}":{_value(dice, odd, depth - 1)}'
            for n in range(dice.randrange(4))
        )
        return "{" + _white(dice) + ",".join(members) + "}"
    return dice.choice(ODD if odd and roll < 0.6 else PLAIN)


def _document(dice: random.Random, members: list[str]) -> str:
    inside = f"{_white(dice)},{_white(dice)}".join(members)
    return f"{_white(dice)}{{{_white(dice)}{inside}{_white(dice)}}}{_white(dice)}"


def _broken(dice: random.Random, body: bytes) -> bytes:
    at = dice.randrange(len(body))
    match dice.randrange(5):
        case 0:
            return body[:at] + bytes([body[at] ^ 1 << dice.randrange(8)]) + body[at + 1:]
        case 1:
            return body[:at] + body[at + 1:]
        case 2:
            return body[:at] + dice.choice([
                b'"', b"\\", b"{", b"}", b",", b":", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"[", b"]"
            ]) + body[at:]
        case 3:
            return body + dice.choice([b"\x00", b'{"model":"bad"}', b"}", b" x", b"//"])
        case _:
            end = min(len(body), at + dice.randrange(20))
            return body[:end] + body[at:end] + body[end:]


def corpus(dice: random.Random, count: int) -> Iterator[Case]:
    for part in (values(), names(), models(), documents(), media_types(), mixtures(dice, count)):
        yield from part
