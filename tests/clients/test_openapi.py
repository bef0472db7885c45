"""The admin API keeps to its own OpenAPI document: schemathesis sends what the document allows and what it does not,
follows keys from their making to their end, and compares every answer."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from processes import HERE, Gateway

EXAMPLES = os.environ.get("KEYGATE_OPENAPI_EXAMPLES", "40")


@pytest.fixture
def gateway(tmp_path: pathlib.Path) -> Iterator[Gateway]:
    # Nobody listens there: no request is forwarded.
    upstream = {"name": "nobody", "url": "http://127.0.0.1:9", "models": ["one", "org/two"]}
    gateway = Gateway(tmp_path / "gateway", [upstream], admin='listen = "127.0.0.1:0"')
    assert gateway.address
    yield gateway
    gateway.end()


def token(gateway: Gateway) -> str:
    return (gateway.folder / "admin.token").read_text().strip()


@pytest.mark.timeout(300)
def test_the_admin_api_keeps_to_its_openapi_document(gateway: Gateway, tmp_path: pathlib.Path):
    arguments = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.admin_url}/api/openapi.json"),
        *("--header", f"Authorization: Bearer {token(gateway)}"),
        *("--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--suppress-health-check", "all"),
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "openapi_hooks",
        "PYTHONPATH": str(HERE),
        "KEYGATE_ADMIN_TOKEN": token(gateway),
    }
    run = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "48 selected / 48 total" in run.stdout, run.stdout[:2000]


def test_the_document_names_the_version_that_runs(gateway: Gateway):
    headers = {"Authorization": f"Bearer {token(gateway)}"}
    document = httpx.get(f"{gateway.admin_url}/api/openapi.json", headers=headers).raise_for_status().json()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == gateway.admin("GET", "/api/status").json()["version"]
