#!/usr/bin/env python3
"""A real upstream: llama.cpp's own HTTP server, with a small model, on 127.0.0.1.

Prints `listening URL` once it answers. Ends on SIGTERM, and when its standard input closes, so that it never
outlives the tests that started it, however those end.
"""

import argparse
import os
import pathlib
import signal
import sys

import xllamacpp


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", help="the model's name in /v1/models; requests may call it anything")
    arguments.add_argument("--port", type=int, default=0, help="default: any that is free")
    arguments.add_argument("--weights", type=pathlib.Path, default=os.environ.get("KEYGATE_TEST_MODEL"),
                           help="the folder with the .gguf file; default: $KEYGATE_TEST_MODEL")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--slots", type=int, default=4, help="requests at a time")
    options = arguments.parse_args()

    params = xllamacpp.CommonParams()
    params.model.path = str(next(options.weights.glob("*.gguf")))
    params.model_alias = {options.name}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.slots * 2048
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    # The same prompt gives the same answer only where nothing is left of the one before.
    params.cache_prompt = False
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_slots = True
    params.offline = True
    params.ui = False
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        while sys.stdin.buffer.read(1):
            pass
    except KeyboardInterrupt:
        pass
    # The engine's own shutdown waits for its connections; there is nothing to save.
    os._exit(0)


main()
