#!/usr/bin/env python3
"""Sets the stage, then runs a command that finds it described, as JSON, in $KEYGATE_STAGE: `with_gateway.py COMMAND…`."""

import json
import os
import subprocess
import sys

from processes import KEYGATE
from stage import ELSEWHERE, set_stage

with set_stage() as stage:
    described = {
        "keygate": str(KEYGATE),
        "plain": {"url": stage.plain.url, "socket": str(stage.plain.socket)},
        "tls": {"url": stage.tls.url, "socket": str(stage.tls.socket)},
        "authority": str(stage.authority),
        "upstreams": {llama.model: llama.url for llama in (stage.a, stage.b)},
        "expiredToken": ELSEWHERE,
    }
    child = subprocess.Popen(sys.argv[1:], env=os.environ | {"KEYGATE_STAGE": json.dumps(described)})
    try:
        status = child.wait()
    finally:
        if child.poll() is None:
            child.kill()
    if status != 0:
        raise SystemExit(status)
