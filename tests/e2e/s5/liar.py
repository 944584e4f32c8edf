"""A portal that answers every request for a blob with other bytes of a plausible length."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LIE = b"not what you asked for, but of some length" * 20


@dataclass(slots=True)
class Liar:
    """Counts what it told."""

    url: str
    num_lies: int = 0


@contextmanager
def lying_portal() -> Generator[Liar]:
    """Serve lies on a free port for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            liar.num_lies += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(_LIE)))
            self.end_headers()
            self.wfile.write(_LIE)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Nothing on the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    liar = Liar(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
