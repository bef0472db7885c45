"""Uploads for transcription, with the packages that people use for them: each is taken, and reaches the upstream byte
for byte, whatever the file is called."""

import asyncio
import functools
import http.client
import pathlib
import subprocess
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import httpx
import openai
import pytest
import requests
import requests_toolbelt

from conftest import Connection
from recorder import Answer, Recorded, Recorder

HERE = pathlib.Path(__file__).resolve().parent
FIELDS = {"model": "whisper-1", "language": "de"}
CONTENT = b"RIFF\r\n--\r\n\x00\xff; name=model"


@dataclass(frozen=True)
class Upload:
    """What a client sends, and where to."""

    base_url: str
    token: str
    file: pathlib.Path

    @property
    def url(self) -> str:
        return f"{self.base_url}/audio/transcriptions"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def part(self) -> tuple[str, bytes, str]:
        return self.file.name, self.file.read_bytes(), "audio/wav"


def run(*command) -> int:
    """The status that a program prints."""
    result = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, f"exit status {result.returncode}: {result.stdout}{result.stderr}"
    return int(result.stdout)


def node(client: str, upload: Upload) -> int:
    return run("node", HERE / "node" / "upload-form.mjs", client, upload.base_url, upload.token, upload.file)


def ruby(client: str, upload: Upload) -> int:
    return run("ruby", HERE / "uploads" / "upload_form.rb", client, upload.base_url, upload.token, upload.file)


def curl(upload: Upload) -> int:
    form = [word for name, value in FIELDS.items() for word in ("-F", f"{name}={value}")]
    authorization = f"Authorization: {upload.headers['Authorization']}"
    # In quotes, since curl reads a `;` in a file's path as the start of its type.
    file = f'file=@"{upload.file}"'
    return run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", authorization, *form, "-F", file, upload.url)


def python_requests(upload: Upload) -> int:
    return requests.post(
        upload.url, headers=upload.headers, data=FIELDS, files={"file": upload.part}, timeout=20
    ).status_code


def python_toolbelt(upload: Upload) -> int:
    form = requests_toolbelt.MultipartEncoder(FIELDS | {"file": upload.part})
    headers = upload.headers | {"Content-Type": form.content_type}
    return requests.post(upload.url, headers=headers, data=form, timeout=20).status_code


def python_httpx(upload: Upload) -> int:
    return httpx.post(
        upload.url, headers=upload.headers, data=FIELDS, files={"file": upload.part}, timeout=20
    ).status_code


def python_aiohttp(upload: Upload) -> int:
    async def post() -> int:
        form = aiohttp.FormData(FIELDS)
        form.add_field("file", upload.file.read_bytes(), filename=upload.file.name, content_type="audio/wav")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
            async with client.post(upload.url, headers=upload.headers, data=form) as answer:
                await answer.read()
                return answer.status

    return asyncio.run(post())


def python_openai(upload: Upload) -> int:
    with openai.OpenAI(api_key=upload.token, base_url=upload.base_url, timeout=20, max_retries=0) as client:
        return client.audio.transcriptions.with_raw_response.create(**FIELDS, file=upload.file).http_response.status_code


def handwritten(parts_type: str, before: str, end: str, upload: Upload) -> int:
    """As clients write forms that no package of these registries writes."""
    typed = f"\r\nContent-Type: {parts_type}" if parts_type else ""
    fields = "".join(
        f'--XyZ\r\nContent-Disposition: form-data; name="{name}"{typed}\r\nContent-Length: {len(value)}\r\n\r\n{value}\r\n'
        for name, value in FIELDS.items()
    )
    file = f'--XyZ\r\nContent-Disposition: form-data; name="file"; filename="{upload.file.name}"{typed}\r\n\r\n'
    body = f"{before}{fields}{file}".encode() + upload.file.read_bytes() + f"\r\n--XyZ--{end}".encode()
    address = urllib.parse.urlsplit(upload.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    content_type = "multipart/form-data; boundary=XyZ"
    connection.request("POST", address.path, body, upload.headers | {"Content-Type": content_type})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


CLIENTS: dict[str, Callable[[Upload], int]] = {
    "requests": python_requests,
    "requests-toolbelt": python_toolbelt,
    "httpx": python_httpx,
    "aiohttp": python_aiohttp,
    "OpenAI's Python library": python_openai,
    "OpenAI's Node library": functools.partial(node, "openai"),
    "OpenAI's Node library 4": functools.partial(node, "openai4"),
    "Groq's Node library": functools.partial(node, "groq"),
    "Node's fetch": functools.partial(node, "fetch"),
    "got": functools.partial(node, "got"),
    "got and formdata-node": functools.partial(node, "formdata-node"),
    "axios": functools.partial(node, "axios"),
    "axios and form-data": functools.partial(node, "form-data"),
    "Ruby's Net::HTTP": functools.partial(ruby, "net-http"),
    "Faraday": functools.partial(ruby, "faraday"),
    "rest-client": functools.partial(ruby, "rest-client"),
    "curl": curl,
    "Unity, by hand": functools.partial(handwritten, "", "\r\n", "\r\n"),
    "Retrofit, by hand": functools.partial(handwritten, "multipart/form-data", "", "\r\n"),
}


# If this changes, nothing proves any more that such forms are taken.
END_WITH_TWO_CRLF = {"OpenAI's Node library 4", "Groq's Node library", "got", "got and formdata-node", "Faraday"}


@pytest.mark.parametrize("name", ["a.wav", "Gespräch; name=model, 2.wav"])
@pytest.mark.parametrize("client", CLIENTS)
def test_an_upload_is_taken_and_reaches_the_upstream_byte_for_byte(
    client: str, name: str, plain: Connection, recorder: Recorder, tmp_path: pathlib.Path
):
    recorder.answer = Answer(body=b'{"text": "Guten Tag."}')
    file = tmp_path / name
    file.write_bytes(CONTENT)
    key = plain.gateway.key("--model-access", "inclusive", "--model", "whisper-1")
    assert CLIENTS[client](Upload(plain.base_url, key.token, file)) == 200
    received = recorder.only()
    assert (received.method, received.target) == ("POST", "/v1/audio/transcriptions")
    assert received.body.count(b"whisper-1") == 1
    assert CONTENT in received.body
    [content_type] = received.header("Content-Type")
    assert content_type.startswith("multipart/form-data; boundary=")
    assert boundary(received) in received.body
    ends_with_two = received.body.endswith(boundary(received) + b"\r\n\r\n")
    assert ends_with_two == (client in END_WITH_TWO_CRLF), received.body[-20:]


def boundary(received: Recorded) -> bytes:
    """The last one, by the media type that the gateway wrote."""
    [content_type] = received.header("Content-Type")
    return b"--" + content_type.partition("boundary=")[2].strip('"').encode() + b"--"
