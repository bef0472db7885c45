"""What tests made secret, and what the gateway said: kept where $KEYGATE_SWEEP says, and searched for each other once every
test has run (`tests/sweep`). Without the variable nothing is kept."""

import os
import pathlib

FOLDER = os.environ.get("KEYGATE_SWEEP")


def secret(text: str) -> None:
    """Something that must stand in no log, metric, error, admin answer or command line."""
    if len(text) >= 16:
        _keep("secrets", text)


def said(kind: str, text: str) -> None:
    """Something the gateway or a command said; `kind` is one word."""
    _keep(f"said-{kind}", text)


def _keep(name: str, text: str) -> None:
    if FOLDER:
        pathlib.Path(FOLDER).mkdir(parents=True, exist_ok=True)
        with pathlib.Path(FOLDER, f"{name}-{os.getpid()}").open("a") as file:
            file.write(text + "\n")
