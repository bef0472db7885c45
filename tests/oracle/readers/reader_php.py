"""Starts PHP's own web server with reader.php. Prints `listening HOST:PORT`, and ends it with itself."""

import os
import pathlib
import re
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# No limit hides a reading; a notice is no part of an answer.
SETTINGS = {
    "post_max_size": "64M", "upload_max_filesize": "64M", "memory_limit": "512M", "max_input_vars": "5000",
    "max_file_uploads": "5000", "max_multipart_body_parts": "5000", "display_errors": "0", "log_errors": "0",
}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = [word for name, value in SETTINGS.items() for word in ("-d", f"{name}={value}")]
    routes = dict(zip(["JSON_ROUTES", "FORM_ROUTES"], sys.argv[1:3], strict=True))
    server = subprocess.Popen(
        ["php", "-n", *options, "-S", "127.0.0.1:0", HERE / "reader.php"], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | routes
    )
    try:
        started = re.search(r"http://([0-9.]+:[0-9]+)\) started", server.stderr.readline())
        print(f"listening {started[1]}", flush=True)
        # What it says of each request is read, so that it never waits, and thrown away. Its own process, so that
        # this one sees the end of standard input: the parent's end closes when the parent ends, whatever ends it.
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        sys.stdin.read()
        drain.terminate()
    finally:
        server.terminate()
        server.wait(10)


main()
