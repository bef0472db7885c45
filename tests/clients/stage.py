"""The stage on which all client tests play: two real upstreams, a recording one, and the gateway in front of them,
once over plain HTTP and once over TLS."""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import trustme

from processes import Gateway, Llama, token_hash
from recorder import Recorder

UPSTREAM_SECRET = "the-recorders-own-credential"
ELSEWHERE = "sk-made-elsewhere-and-expired-long-ago"


@dataclass
class Stage:
    folder: pathlib.Path
    a: Llama
    b: Llama
    recorder: Recorder
    plain: Gateway
    tls: Gateway
    authority: pathlib.Path
    keep: bool = False  # whether the logs stay


@contextlib.contextmanager
def set_stage() -> Iterator[Stage]:
    """Starts everything, and ends it. The logs stay where something failed; their folder is named then."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="keygate-clients-"))
    keep = True
    try:
        with contextlib.ExitStack() as stack:
            llamas = [Llama("tiny-a", folder), Llama("tiny-b", folder)]
            for llama in llamas:
                stack.callback(llama.process.end)
            recorder = Recorder()
            stack.callback(recorder.close)
            upstreams = [
                *({"name": llama.model, "url": llama.url} for llama in llamas),
                {"name": "recorder", "url": recorder.url, "api_key_env": "RECORDER_KEY"},
            ]
            environment = {"RECORDER_KEY": UPSTREAM_SECRET}
            expired = {
                "id": "key_expired",
                "name": "made elsewhere, expired",
                "hash": token_hash(ELSEWHERE),
                "model_access": {"mode": "all"},
                "expires_at": "2020-01-01T00:00:00Z",
            }
            keys = json.dumps(expired) + "\n"

            authority = trustme.CA()
            authority.cert_pem.write_to_path(folder / "authority.pem")
            server = authority.issue_cert("localhost", "127.0.0.1")
            (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
            server.private_key_pem.write_to_path(folder / "tls.key")

            gateways = []
            for name, tls in [("plain", None), ("tls", (folder / "tls.crt", folder / "tls.key"))]:
                gateways.append(Gateway(folder / name, upstreams, tls, keys, environment))
                gateways[-1].tokens += [ELSEWHERE, UPSTREAM_SECRET]
                stack.callback(gateways[-1].end)
            for gateway in gateways:
                assert gateway.address
            stage = Stage(folder, *llamas, recorder, *gateways, folder / "authority.pem")
            yield stage
        keep = stage.keep
    finally:
        if keep:
            print(f"\nlogs of the processes: {folder}")
        else:
            shutil.rmtree(folder)
