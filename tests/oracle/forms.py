"""Multipart bodies: as clients write them, and every way that two parsers are known, or likely, to read them apart."""

import random
from collections.abc import Iterator

from case import Case, Kind
from json_bodies import CATALOGUE

BOUNDARY = "XyZ"
ROUTE = "/v1/audio/transcriptions"
MODEL = 'Content-Disposition: form-data; name="model"'
FILE = 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'
OTHER = 'Content-Disposition: form-data; name="language"'

Part = tuple[str, bytes]


def form(parts: list[Part], boundary: str = BOUNDARY, end: str = "\r\n") -> bytes:
    body = b"".join(
        b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode("utf-8", "surrogateescape"), content)
        for head, content in parts
    )
    return body + f"--{boundary}--{end}".encode()


def upload(
    name: str,
    body: bytes,
    kind: Kind = Kind.HOSTILE,
    model: str = "good",
    content_type: str | None = None,
    **more
) -> Case:
    """A request with a form."""
    value = content_type if content_type is not None else f"multipart/form-data; boundary={BOUNDARY}"
    return Case(name, ROUTE, [("Content-Type", value)], body, kind, model, **more)


GOOD: Part = (MODEL, b"good")
SOUND: Part = (FILE, b"RIFF\r\n\x00\xff--\n--Xy\r\n--\r\n")


def ordinary() -> Iterator[Case]:
    """As clients write them."""
    language: Part = (OTHER, b"de")
    for number, parts in enumerate([[GOOD], [GOOD, SOUND], [SOUND, GOOD], [language, GOOD, SOUND],
                                    [SOUND, language, GOOD], [GOOD, language, language]]):
        for end in ("\r\n", ""):
            yield upload(
                f"plain form {number}, end {end!r}", form(parts, end=end), Kind.ORDINARY if end else Kind.VALID
            )
    for boundary in (
        "----WebKitFormBoundary7MA4YWxkTrZu0gW", "ca380cb4c081fade4d9dc80dff320aa9",
        "------------------------d74496d66958873e", "formdata-undici-012345678901", "b" * 70, "0"
    ):
        yield upload(
            f"boundary {boundary}",
            form([GOOD, SOUND], boundary),
            Kind.ORDINARY,
            content_type=f"multipart/form-data; boundary={boundary}"
        )
    for value in (
        "Multipart/Form-Data; boundary=XyZ", "multipart/form-data;boundary=XyZ", 'multipart/form-data; boundary="XyZ"',
        "MULTIPART/FORM-DATA; BOUNDARY=XyZ", "multipart/form-data; boundary=XyZ;",
        "multipart/form-data; charset=utf-8; boundary=XyZ", "multipart/form-data; boundary=XyZ; charset=utf8",
        'multipart/form-data; charset="UTF-8"; boundary="XyZ";',
    ):
        yield upload(
            f"type {value}",
            form([GOOD, SOUND]),
            Kind.ORDINARY,
            content_type=value
        )
    for head in (
        "content-disposition: form-data; name=\"model\"", "CONTENT-DISPOSITION: form-data; name=\"model\"",
        f"{MODEL}\r\nContent-Type: text/plain", f"{MODEL}\r\nContent-Type: text/plain; charset=utf-8",
        f"{MODEL}\r\nContent-Language: y", f"Content-Id: <y>\r\n{MODEL}",
    ):
        # As .NET and Java type their fields; formidable takes those for files.
        kind = Kind.VALID if "Content-Type" in head else Kind.ORDINARY
        yield upload(f"head {head!r}", form([(head, b"good"), SOUND]), kind)
    # One CRLF before all, as Unity sends it, and two behind all, as formdata-node and got send them.
    for before in ("", "\r\n"):
        for end in ("", "\r\n", "\r\n\r\n"):
            for parts in ([GOOD], [SOUND, GOOD], [GOOD, language, SOUND]):
                yield upload(f"{before!r}, form, {end!r}", before.encode() + form(parts, end=end), Kind.VALID)
    # As Retrofit's users type their fields and files.
    untyped = "\r\nContent-Type: multipart/form-data"
    nested = b'--\r\n' + MODEL.encode() + b"\r\n\r\nbad\r\n----\r\n"
    for length in ("", "\r\nContent-Length: {}"):
        for model in (MODEL, f"Content-Transfer-Encoding: binary\r\n{MODEL}"):
            typed = f"{model}{untyped}{length.format(4)}"
            yield upload(f"Retrofit {typed!r}", form([(typed, b"good"), SOUND]), Kind.VALID)
        typed = [(f"{head}{untyped}{length.format(len(nested))}", nested) for head in (OTHER, FILE.partition("\r")[0])]
        yield upload(f"Retrofit, all of it {length!r}", form([*typed, (f"{MODEL}{untyped}", b"good")]), Kind.VALID)
    yield upload("a large file first", form([(FILE, b"\x00\r\n--X" * 60_000), GOOD]), Kind.ORDINARY)
    yield upload("in chunks", form([GOOD, SOUND]), Kind.ORDINARY, chunked=True)


# Files whose names look as if they named the part once more.
FILENAMES = [
    'name="file"; filename="; name=model"', 'name="file"; filename="a; name=model.wav"',
    'name="file"; filename="a;name=model;b"', 'name=file; filename="; name=model"',
    'name="file"; filename="; NAME=model"', 'name="file"; filename="x; filename=y; name=model; z"',
    'name="file"; filename="; name=model; filename="', "name=\"file\"; filename=\"; name='model'\"",
    'name="file"; filename=";name*=utf-8\'\'model"', 'name="file"; filename="; name*0=model"',
    'name="file"; filename="; name = model"', 'name="file"; filename="; name=mod; name=el"',
    'name="file"; filename="; name=model"; filename*=utf-8\'\'a', 'name="file"; FileName="; name=model"',
    'name="file"; filename*=utf-8\'\'a; filename="; name=model"', 'name="file"; filename="; name=model"; size=4',
    'name="file"; size=4; filename="; name=model"', 'name="file"; filename=""; filename="; name=model"',
    'name="file"; filename="; name=model"; filename=""', 'filename="; name=model"; name="file"',
    'name="file"; filename="a\\"; name=model; x=\\""', 'name="file"; filename="\\\\"; name=model; x="',
    'name="file"; filename="a; name=\\"model\\".wav"', 'name="file"; filename="; name=model',
    'name="file"; x="; name=model"', 'name="file"; filename="; name=\t model"', 'name="fi le"; filename="; name=model"',
    'name="file"; filename="; name==model"', 'name="file"; filename="; name=model\\"', 'name="file";filename=";name=model"',
    'name="file"; filename=" name=model"', 'name="file"; filename="name=model"', 'name="file"; filename=a; name=model',
    'name="model"; filename="; name=file"', 'name="file"; filename="%22; name=model"', 'name="mode"; filename="l; name=model"',
]


def names() -> Iterator[Case]:
    """Content-Dispositions of a second part that is to be taken for the model, or of the model's own."""
    dispositions = [
        'form-data; name="Model"', 'form-data; name="MODEL"', "form-data; name=model", 'form-data; name="model"',
        "form-data; name='model'", 'form-data; name=" model"', 'form-data; name="model "',
        'form-data; name="mo\\del"', 'form-data; name="model\\""', 'form-data; name="\\model"',
        'form-data; name="%6dodel"', 'form-data; name="model[]"', 'form-data; name="model[0]"',
        'form-data; name="[model]"', 'form-data; name="model.x"', 'form-data; name="model\x00"',
        'form-data; name="model%00"', 'form-data; name="=?utf-8?q?model?="', 'form-data; name="&#109;odel"',
        'form-data; name="\\u006dodel"', "form-data; name*=UTF-8''model", "form-data; name*=utf-8''%6dodel",
        'form-data; name*0="mo"; name*1="del"', "form-data; name*0*=UTF-8''mo; name*1=del",
        'form-data; name="x"; name="model"', 'form-data; name="model"; name="x"',
        'form-data; name="x"; name*=UTF-8\'\'model', 'form-data; name="x"; Name="model"', 'form-data; Name="model"',
        'form-data; NAME=model', 'FORM-DATA; name="model"', 'form-data;name="model"', 'form-data ; name="model"',
        'form-data; name ="model"', 'form-data; name= "model"', 'form-data; name = "model"',
        "form-data; name=model x", 'form-data; name="model"x', 'form-data; name="model";',
        'form-data; ; name="model"', 'form-data;; name="model"', 'form-data, name="model"', 'form-data name="model"',
        'name="model"', 'file; name="model"', 'attachment; name="model"', 'inline; name="model"', '; name="model"',
        'form-data; x="; name=model; "; name="y"', 'form-data; x="name=model"; name="y"',
        'form-data; x="a\\"; name=model; b="; name="y"', "form-data; x='; name=\"model\"; '; name=\"y\"",
        'form-data; xname="model"; name="y"', 'form-data; x-name="model"; name="y"',
        'form-data; filename="x"; name="model"', 'form-data; name="model"; filename=""',
        'form-data; name="model"; filename="a"', "form-data; name=\"model\"; filename*=utf-8''a",
        'form-data; name="model"; FileName="a"', 'form-data; name="model"; filename', 'form-data; name="model"; x',
        'form-data; name="model"; x=y', 'form-data; x=y; name="model"', 'form-data; name="model"; size=4',
        'form-data; name-of="x"; name="model"', 'form-data; name="model', "form-data; name=model\"",
        "form-data; name=\"model'", 'form-data; name=', 'form-data; name=""', "form-data", "",
        'form-data; "name"="model"', 'form-data; name:"model"', "form-data; name=mo del", "form-data; name=(model)",
        'form-data;\tname="model"', 'form-data; name="model"\t', 'form-data; name="mod\tel"',
        "form-data; name=\"ｍodel\"", "form-data; name=“model”", 'form-data; name="model"; name',
        'form-data; filename="; name=model; "; name="f"', 'form-data; filename="a\\"; name=\\"model"; name="f"',
        'form-data; name="f"; filename="\\"; name=model"', 'form-data; name="f"; filename="a.wav\\"',
        "form-data; name=\"_charset_\"", 'form-data; name="models"', 'form-data; name="fallbacks"',
        'form-data; name="lora_path"', 'form-data; name="models[]"', 'form-data; name=m%6fdel',
        'form-data; name="mod""el"', 'form-data; name=mod"el"', 'form-data; name="model" (comment)',
        '(x) form-data; name="model"', 'form-data; (name="x") name="model"', 'form-data; name="model"\\',
        "form-data; name=\"model\"; filename=undefined",
    ]
    dispositions += [f'form-data; {one}' for one in FILENAMES]
    for disposition in dispositions:
        head = f"Content-Disposition: {disposition}"
        yield upload(f"alone: {disposition}", form([(head, b"good")]))
        yield upload(f"alone, bad: {disposition}", form([(head, b"bad")]))
        yield upload(f"behind: {disposition}", form([GOOD, (head, b"bad")]))
        yield upload(f"before: {disposition}", form([(head, b"bad"), GOOD, SOUND]))
    for second in (b"bad", b"good", b""):
        yield upload(f"good, then {second!r}", form([GOOD, (MODEL, second)]))
        yield upload(f"{second!r}, then good", form([(MODEL, second), GOOD]))


def heads() -> Iterator[Case]:
    """The other headers of a part, and how header lines end, fold and repeat."""
    for head in (
        f"{MODEL}\r\n{OTHER}", f"{OTHER}\r\n{MODEL}", f"{MODEL}\r\n{MODEL}", f"{MODEL}\nX: y", f"X: y\n{MODEL}",
        f"X: y\r{MODEL}", 'Content-Disposition: form-data;\r\n name="model"',
        'Content-Disposition: form-data;\r\n\tname="model"', 'Content-Disposition : form-data; name="model"',
        ' Content-Disposition: form-data; name="model"', 'Content-Disposition:form-data; name="model"',
        'Content_Disposition: form-data; name="model"', 'X: y\r\n Content-Disposition: form-data; name="model"',
        f"X\r\n{MODEL}", f": x\r\n{MODEL}", f"--X: y\r\n{MODEL}", f"--XyZ: y\r\n{MODEL}", f"{MODEL}\r\n--XyZ",
        f"{MODEL}\r\nContent-Transfer-Encoding: base64", f"{MODEL}\r\nContent-Transfer-Encoding: quoted-printable",
        f"{MODEL}\r\nContent-Transfer-Encoding: binary", f"{MODEL}\r\nContent-Transfer-Encoding: 7bit",
        f"{MODEL}\r\nContent-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64",
        f"{MODEL}\r\nContent-Transfer-Encoding: x-uuencode", f"{MODEL}\r\nContent-Encoding: gzip",
        f"{MODEL}\r\nContent-Encoding: identity", f"{MODEL}\r\nContent-Type: text/plain; charset=utf-16",
        f"{MODEL}\r\nContent-Type: text/plain; charset=utf-7",
        f"{MODEL}\r\nContent-Type: text/plain; charset=iso-8859-1",
        f"{MODEL}\r\nContent-Type: text/plain; charset=cp037", f"{MODEL}\r\nContent-Type: application/json",
        f"{MODEL}\r\nContent-Type: application/octet-stream", f"{MODEL}\r\nContent-Type: text/html",
        f"{MODEL}\r\nContent-Type: multipart/mixed; boundary=Y", f"{MODEL}\r\nContent-Type: message/rfc822",
        f"{MODEL}\r\nContent-Type: text/plain\r\nContent-Type: text/plain; charset=utf-7",
        f"{MODEL}\r\nContent-Type: TEXT/PLAIN", f"{MODEL}\r\nContent-Type:",
        f"{MODEL}\r\nContent-Type: text/plain;format=flowed", f"{MODEL}\r\nContent-Length: 4",
        f"{MODEL}\r\nContent-Length: 3", f"{MODEL}\r\nContent-Length: 40", f"{MODEL}\r\nContent-Length: 0",
        f"{MODEL}\r\nContent-Length: -1", f"{MODEL}\r\nX: {'y' * 7000}", f"{MODEL}\r\nX: {'y' * 9000}",
        *(f"{MODEL}" + "\r\nX: y" * count for count in (10, 31, 32, 33, 100, 500)), f"{MODEL}\r\n\x00: x",
        f"{MODEL}\r\nX: \x00", f"{MODEL}\r\nX: \x7f", f"{MODEL}\r\nX: ä",
        f"{MODEL}\r\nContent-Disposition: attachment", f"{MODEL}\r\ncontent-disposition: form-data; name=\"x\"",
        f"{MODEL}\r\nContent-Disposition:", f"{MODEL}\r\nX-Name: model",
        # Where Rack finds filenames, and perhaps names, too.
        *(f'{first}\r\n{second}' for one in (
            'Content-Type: text/plain; filename=""', 'Content-Type: text/plain; filename="x"',
            "Content-Type: text/plain; charset=utf-8; filename*=utf-8''x", 'Content-Id: a; filename="b"',
            'Content-Type: audio/wav; name="model"', 'Content-Id: a; name="model"', 'Content-Id: model',
            'Content-Language: x;filename=""', 'Content-Id: Content-Disposition: form-data; name="model"',
        ) for head in (
            MODEL, OTHER, f'{OTHER}; filename="; name=model"',
        ) for first, second in ((head, one), (one, head))),
        'Content_Disposition: form-data; name="model"', 'CONTENT_DISPOSITION: form-data; name="model"',
        f'{OTHER}\r\nContent_Disposition: form-data; name="model"', f'{FILE}\r\nX-Foo: form-data; name="model"',
        f'Content_Disposition: form-data; name="model"\r\n{OTHER}', f"{MODEL}\r\nContent_Type: text/html",
        f'{OTHER}\r\nContent-Disposition-X: form-data; name="model"', f"{MODEL}\r\nContent-: y",
        f'{OTHER}\r\nContent-disposition.: form-data; name="model"', f"{MODEL}\r\nMIME-Version: 1.0",
        'Content-Disposition:\tform-data; name="model"', 'Content-Disposition:  form-data; name="model"',
        f"{MODEL}\r\nContent-Type:text/plain", f"{MODEL}\r\nContent-Transfer-Encoding:base64",
        f"{MODEL}\r\nContent-Length:3", f"{MODEL}\r\nContent-Type: application/x-www-form-urlencoded",
        f"{OTHER}\r\nContent-Type: application/x-www-form-urlencoded",
        f"{MODEL}\r\nContent-Type: multipart/form-data\r\nContent-Type: text/html",
        f"{MODEL}\r\nContent-Type: multipart/form-data;", f"{MODEL}\r\nContent-Type: multipart/form-data; boundary=Y",
        f"{MODEL}\r\nContent-Id: {'y' * 7000}", f"{MODEL}\r\nContent-Id: {'y' * 9000}",
        *(f"{MODEL}" + "\r\nContent-Id: y" * count for count in (10, 31, 32, 33, 100, 500)),
        f"{MODEL}\r\nContent-Id: \x00", f"{MODEL}\r\nContent-Id: ä", f"{MODEL}\r\nContent-Id: \udce4",
    ):
        for parts in ([(head, b"good")], [(head, b"good"), SOUND], [SOUND, (head, b"good")]):
            yield upload(f"head {head!r:.100}", form(parts))
        yield upload(f"second head {head!r:.100}", form([GOOD, (head.replace('"model"', '"x"'), b"bad"), SOUND]))
    # A part that says in which character set the others are.
    for charset in (b"utf-16", b"utf-7", b"cp037", b"utf-8", b"rot13", b"base64", b"x" * 40, b"latin-1"):
        length = f"\r\nContent-Length: {len(charset)}" if len(charset) % 2 else ""
        note = (f'Content-Disposition: form-data; name="_charset_"{length}', charset)
        for model in ("good", "+AGIAYQBk-", "b\x00a\x00d\x00", "YmFk"):
            yield upload(
                f"_charset_ {charset!r} and {model!r}", form([note, (MODEL, model.encode()), SOUND]), model=model
            )
            yield upload(f"{model!r} and _charset_ {charset!r}", form([(MODEL, model.encode()), note]), model=model)


def boundaries() -> Iterator[Case]:
    """Lines that are a delimiter to some and content to others, and Content-Types that name boundaries in many ways."""
    hidden = f"{MODEL}\r\n\r\nbad\r\n"
    for before in ("\r\n", "\n", "\r", "\n\r", "\r\r\n", "", " ", "\r\n ", "\x00", "\x0b", "\u2028", "\x85"):
        for behind in (
            "\r\n", "\n", "\r", " \r\n", "\t\r\n", "--\r\n", "-\r\n", "x\r\n", " --\r\n", "\x00\r\n", "--", "--x\r\n",
            ";\r\n", "\r\r\n"
        ):
            content = f"x{before}--XyZ{behind}{hidden}".encode()
            yield upload(
                f"hidden model behind {before!r}--XyZ{behind!r}",
                form([GOOD, (FILE, content + b"--XyZ\r\nX: y\r\n\r\n")])
            )
            yield upload(
                f"in the model: {before!r}--XyZ{behind!r}",
                form([(MODEL, b"good" + f"{before}--XyZ{behind}{hidden}".encode()), SOUND])
            )
    whole = form([GOOD, SOUND])
    for before in (
        "\r\n", "\r\n\r\n", "\r\n\n", "\r\n ", "\r\r\n", "\r\n--XyZ--\r\n", "\r\n--XyZ\r\n", f"\r\n--Xy\r\n{hidden}",
        "\n", "preamble\r\n", " ", "--\r\n", "--XyZ\r\n", "--XyZ--\r\n", "\x00", "\ufeff",
        f"--Xy\r\n{hidden}", "x"
    ):
        yield upload(f"before all: {before!r}", before.encode() + whole)
    for behind in (
        "\r\n", "\n", "epilogue", "--XyZ\r\n" + hidden + "--XyZ--\r\n", "\r\n--XyZ\r\n" + hidden + "--XyZ--\r\n",
        "--", "\x00", " ", "-", "\r\n\r\n", "\n\n", "\r\n\r", "\r\n\r\n--XyZ\r\n" + hidden + "--XyZ--\r\n",
        "\r\n\r\n" + hidden,
    ):
        yield upload(f"behind all: {behind!r}", whole + behind.encode())
        yield upload(f"behind the last dashes: {behind!r}", whole[:-2] + behind.encode())
    for end in range(0, len(form([GOOD])), 1):
        yield upload(f"cut off at {end}", form([GOOD])[:end])
    bare = form([GOOD, SOUND]).replace(b"\r\n", b"\n")
    yield upload("bare line feeds", bare)
    yield upload("bare carriage returns", form([GOOD]).replace(b"\r\n", b"\r"))
    for at, _ in enumerate(form([GOOD, (OTHER, b"x")]).split(b"\r\n")[:-1]):
        lines = form([GOOD, (OTHER, b"x")]).split(b"\r\n")
        for instead in (b"\n", b"\r", b"\r\r\n", b"\n\n", b""):
            yield upload(
                f"line {at} ends with {instead!r}",
                b"\r\n".join(lines[:at + 1]) + instead + b"\r\n".join(lines[at + 1:])
            )
    other = form([(MODEL, b"bad")], "AbC")
    for value in (
        "multipart/form-data; boundary=XyZ; boundary=AbC", "multipart/form-data; boundary=AbC; boundary=XyZ",
        "multipart/form-data; boundary=XyZ; Boundary=AbC", "multipart/form-data; boundary*=utf-8''AbC; boundary=XyZ",
        "multipart/form-data; boundary*0=Xy; boundary*1=Z",
        "multipart/form-data; boundary=XyZ, multipart/form-data; boundary=AbC",
        "multipart/form-data; x=\"boundary=AbC\"; boundary=XyZ",
        "multipart/form-data; x=\"; boundary=AbC; \"; boundary=XyZ",
        "multipart/form-data; xboundary=AbC; boundary=XyZ", "multipart/form-data; boundary=XyZ;",
        "multipart/form-data; boundary=XyZ ", "multipart/form-data; boundary= XyZ",
        "multipart/form-data; boundary =XyZ", "multipart/form-data; boundary=\"XyZ\" ",
        "multipart/form-data; boundary='XyZ'", "multipart/form-data; boundary=\"X\\yZ\"",
        "multipart/form-data; boundary=XyZ x", "multipart/form-data; boundary=\"XyZ",
        "multipart/form-data; boundary=", "multipart/form-data; boundary=\"\"", "multipart/form-data",
        "multipart/form-data; charset=utf-8; boundary=XyZ", "multipart/form-data; charset=utf-16; boundary=XyZ",
        "multipart/form-data; boundary=XyZ; charset=utf-8", "multipart/mixed; boundary=XyZ",
        "multipart/related; boundary=XyZ", "multipart/form-data boundary=XyZ", "multipart/form-data, boundary=XyZ",
        "multipart/form-data; boundary=XyZ,AbC", "MULTIPART/FORM-DATA; BOUNDARY=XyZ",
        "multipart/form-data;;boundary=XyZ", "multipart/form-data; boundary:XyZ", "form-data; boundary=XyZ",
        "application/json", "application/x-www-form-urlencoded", "", "multipart/form-data; boundary=xyz",
        "multipart/form-data; boundary=--XyZ", "multipart/form-data; boundary=Xy",
        "multipart/form-data; boundary=XyZ--",
    ):
        yield upload(f"type {value}", whole, content_type=value)
        yield upload(f"type {value}, two forms", whole + other, content_type=value)
        yield upload(f"type {value}, the other first", other + whole, content_type=value)
    for boundary in (
        "a'()+_,-./:=?z", "a:b", "a=b", "a/b", "a,b", "a?b", "a b", "a;b", 'a\\"b', "ä", "b" * 71, "-", "--", "=",
        "'a'", "(a)", "a.", "_"
    ):
        yield upload(
            f"boundary {boundary!r} in quotes",
            form([GOOD, SOUND], boundary),
            content_type=f'multipart/form-data; boundary="{boundary}"'.encode().decode("latin-1")
        )
        yield upload(
            f"boundary {boundary!r} without quotes",
            form([GOOD, SOUND], boundary),
            content_type=f"multipart/form-data; boundary={boundary}".encode().decode("latin-1")
        )
    for count in (2, 30, 63, 64, 65, 200, 1001):
        yield upload(
            f"{count} parts", form([(OTHER, b"")] * (count - 1) + [GOOD]),
            Kind.ORDINARY if count < 64 else Kind.HOSTILE
        )
    yield upload("two content types", whole)


def contents() -> Iterator[Case]:
    """Every name of the catalogue as a part's content, and names that decode to another."""
    for model in CATALOGUE:
        kind = Kind.HOSTILE if model == "bad" or "\x00" in model else Kind.VALID
        yield upload(f"model {model!r:.60}", form([(MODEL, model.encode()), SOUND]), kind, model)
        yield upload(
            f"typed model {model!r:.60}",
            form([SOUND, (f"{MODEL}\r\nContent-Type: text/plain; charset=utf-8", model.encode())]), Kind.HOSTILE,
            model
        )
    for content in (
        b"", b" ", b"good ", b" good", b"good\r\n", b"good\n", b"\r\ngood", b"good\x00", b"\xff", b"good\xff",
        b"g\xf6d", "good".encode("utf-16-le"), b"\xef\xbb\xbfgood", b'"good"', b"good,bad", b"good\r\n\r\nbad"
    ):
        yield upload(f"content {content!r}", form([(MODEL, content), SOUND]))
    urlencoded = [("Content-Type", "application/x-www-form-urlencoded")]
    yield Case("urlencoded", ROUTE, urlencoded, b"model=good")


def mixtures(dice: random.Random, count: int) -> Iterator[Case]:
    """Forms of random parts: half of them plain, half with one thing about them changed."""
    fragments = [
        b"\r\n", b"\n", b"\r", b"--", b"--XyZ", b"\r\n--XyZ\r\n", b"--XyZ--", b";", b'"', b"\\", b"name=model;",
        b"; name=model", b'; filename=""', b" ", b"\t", b"\x00", b":", b"=", b"*", b"model", b"bad",
        MODEL.encode() + b"\r\n", b"\r\n\r\n", b"Content-Type: text/plain\r\n",
        b"Content-Transfer-Encoding: base64\r\n", b"Content_Disposition: form-data; name=model\r\n", b"_", b"[", b"%6d", b"=?", b"?=", b"'",
    ]
    for number in range(count):
        parts: list[Part] = []
        for _ in range(dice.randrange(4)):
            content = b"".join(
                dice.choice([
                    b"bad", b"x", b"\r\n", b"\n", b"\x00\xff", b"--", b"-", b"name=\"model\"", b"Xy", b"XyZ", b"\r",
                    b"good"
                ]) for _ in range(dice.randrange(8))
            )
            if b"--XyZ" not in content and not (content + b"\r").endswith(b"\r\r"):
                parts.append((
                    dice.choice([FILE, OTHER, 'Content-Disposition: form-data; name="prompt"',
                                 f"{FILE}\r\nContent-Id: z",
                                 'Content-Disposition: form-data; name="file"; filename="a;name=model"']), content
                ))
        head = dice.choice([
            MODEL, MODEL, f"{MODEL}\r\nContent-Type: text/plain", "content-disposition: form-data;name=model"
        ])
        parts.insert(dice.randrange(len(parts) + 1), (head, b"good"))
        body = dice.choice([b"", b"", b"\r\n"]) + form(parts, end=dice.choice(["\r\n", "\r\n", "", "\r\n\r\n"]))
        changed = dice.random() < 0.6
        for _ in range(dice.randrange(1, 3) if changed else 0):
            at = dice.randrange(len(body))
            match dice.randrange(4):
                case 0:
                    body = body[:at] + body[at + dice.randrange(1, 4):]
                case 1:
                    body = body[:at] + bytes([dice.randrange(256)]) + body[at + 1:]
                case 2:
                    body = body[:at] + dice.choice(fragments) + body[at:]
                case _:
                    # At a line's end, where parsers decide.
                    near = body.find(b"\r\n", at)
                    near = at if near < 0 else near
                    body = body[:near] + dice.choice(fragments) + body[near:]
        yield upload(f"mixture {number}", body, Kind.HOSTILE if changed else Kind.VALID, chunked=dice.random() < 0.1)


def dispositions(dice: random.Random, count: int) -> Iterator[Case]:
    """A second part whose name or filename is made of what parsers search for."""
    pieces = [
        "; name=model", ";name=model", "; name", "name=", "model", "=", ";", " ", "; filename=", "filename", "'", "%22",
        "*", ",", "[", "]", "?", "ä", "(", ")", ":", "/", "a.wav", "\t", "; name=a", "; name*=utf-8''model", "\\", '\\"',
        '"', "utf-8''", "\x7f", "<", "@", "=?utf-8?q?model?=", "%3B", "Model", "; NAME=model", "..", "&#34;",
    ]
    for number in range(count):
        text = "".join(dice.choice(pieces) for _ in range(dice.randrange(1, 6)))
        disposition = dice.choice([
            'form-data; name="file"; filename="{}"', 'form-data; name="file"; filename="{}"',
            'form-data; name=file; filename="{}"', 'form-data; name="file";filename="{}"',
            'form-data; name="{}"', 'form-data; name="{}"; filename="a"', 'form-data; name="file"; filename={}',
            "form-data; name=\"file\"; filename=\"{}\"; filename*=utf-8''a", 'form-data; name="file"; x="{}"',
            'form-data; filename="{}"; name="file"', 'form-data; name="file"; filename="{}"; x=y',
        ]).format(text)
        part = (f"Content-Disposition: {disposition}", b"bad")
        yield upload(f"disposition {number}", form(dice.choice([[GOOD, part], [part, GOOD]])))


def corpus(dice: random.Random, count: int) -> Iterator[Case]:
    for part in (ordinary(), names(), heads(), boundaries(), contents(), mixtures(dice, count),
                 dispositions(dice, count)):
        yield from part
