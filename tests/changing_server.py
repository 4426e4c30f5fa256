"""A loopback server whose answers a test changes while it runs."""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class ChangingServer:
    """Serves `answers` by path: bytes are a picture, a number is a status, None hangs.

    `asked` counts requests by path, those for robots.txt left out.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes | int | None] = {}
        self.asked: Counter[str] = Counter()
        self._closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked[self.path] += self.path != "/robots.txt"
                answer = owner.answers.get(self.path, 404)
                if answer is None:
                    owner._closing.wait(60)
                    return
                body = answer if isinstance(answer, bytes) else b""
                self.send_response(200 if body else int(answer))
                self.send_header("Content-Type", "image/jpeg")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{path}"
