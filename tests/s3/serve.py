"""Run one S3 server on a free port of the loopback interface: `python serve.py ministack`.

Prints what `servers.Endpoint` is made of, as one line of JSON, and serves until SIGTERM. Whoever
started it may be killed: the server sees within a second that it has another parent, and ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

START_S3 = Path(__file__).with_name("start-s3")
STARTED_BY = os.getppid()
ended = threading.Event()


def orphaned() -> bool:
    """Whether the process that started this one is gone."""
    return os.getppid() != STARTED_BY


def end_when_orphaned() -> None:
    """End this process, which has nothing to put away, soon after its parent."""
    while not orphaned():
        time.sleep(0.5)
    os._exit(1)


def listening() -> socket.socket:
    """Return a socket that takes connections already: its port can be told before one is served."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.set_inheritable(True)
    return listener


def tell(url: str, key: str = "test", secret: str = "test") -> None:
    """Say where the server is."""
    print(json.dumps({"url": url, "key": key, "secret": secret}), flush=True)  # noqa: T201 - to a pipe


def ministack() -> None:
    """Serve MiniStack, which takes any credentials."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = listening()
    port = listener.getsockname()[1]
    # no other services: two of them listen on every interface
    os.environ |= {"SERVICES": "s3", "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0"}
    os.environ |= {"GATEWAY_PORT": str(port), "LOG_LEVEL": "WARNING"}
    from ministack.app import app

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "WARNING"
    tell(f"http://127.0.0.1:{port}")
    # of hypercorn's own handlers none: SIGTERM ends it at once, whoever is still connected
    asyncio.run(serve(app, config, shutdown_trigger=asyncio.Event().wait))


def moto() -> None:
    """Serve moto, which takes any credentials."""
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    listener = listening()
    host, port = listener.getsockname()
    os.environ["MOTO_PORT"] = str(port)
    server = make_server(
        host,
        port,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=MotoRequestHandler,
        fd=listener.fileno(),
    )
    tell(f"http://{host}:{port}")
    server.serve_forever()


def ceph() -> None:
    """Serve Ceph's gateway, which checks signatures; its three daemons are others' children."""
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    # what the daemons keep is gone with them; their sockets need a short path
    with tempfile.TemporaryDirectory(prefix="castore-s3-") as folder:

        def start_s3(verb: str, *options: str) -> str:
            command = [sys.executable, str(START_S3), verb, "--data", f"{folder}/ceph", *options]
            return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

        try:
            told = json.loads(start_s3("start", "--store", "memstore", "--json"))
            tell(told["S3_ENDPOINT"], told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"])
            while not ended.wait(0.5) and not orphaned():
                pass
        finally:
            start_s3("stop", "--wipe")


if __name__ == "__main__":
    which = {"ministack": ministack, "moto": moto, "ceph": ceph}[sys.argv[1]]
    if which is not ceph:
        threading.Thread(target=end_when_orphaned, daemon=True).start()
    which()
