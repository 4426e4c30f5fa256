"""A real HTTP server on loopback: given files, and every trouble of curation.demo.troubles.

    with TroubleServer(files) as server:
        server.url("/photos/a.jpg"), server.trouble_url(TROUBLES[0])

Troubles that fail first and succeed later count their requests and start over after a success, so
that a second run over the same server meets the same.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from curation.demo.pictures import boasting_png, bomb_png, exif_rotated, plain_jpeg
from curation.demo.troubles import REDIRECT_TO_INTRANET, TROUBLES, Trouble

_DRIP_S = 0.05
_PIECE = bytes(2**16)
_HTML = b"<!DOCTYPE html><html><body><h1>Sorry, this image has moved.</h1></body></html>"
_HOPS = "/trouble/hop/"
ROBOTS_TXT = b"User-agent: *\nDisallow: /trouble/disallowed/\n"
"""What the server answers unless it is given a robots.txt of its own."""


class ServedFile(NamedTuple):
    """A file to serve, with its Content-Type."""

    data: bytes
    content_type: str = "image/jpeg"
    headers: Mapping[str, str] = MappingProxyType({})


class SeenRequest(NamedTuple):
    """A request that reached the server; header names in lower case."""

    path: str
    headers: Mapping[str, str]
    client_port: int
    """Requests over one connection have one port."""


class TroubleServer:
    """Serves on 127.0.0.1 and a free port while its `with` block runs.

    Args:
        files: what to serve beside the troubles, by path with a leading slash.
        picture: a JPEG that the troubles with a good end serve; a gradient if None.
        slow_s: how long the slow troubles drip; choose more than the deadline under test.
        huge_bytes: length of the endless stream; choose more than the byte cap under test.
        keeps_alive: leave connections open for further requests.
        tls: serve https with this context.
    """

    def __init__(
        self,
        files: Mapping[str, ServedFile] | None = None,
        *,
        picture: bytes | None = None,
        slow_s: float = 60.0,
        huge_bytes: int = 2**27,
        keeps_alive: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.picture = plain_jpeg() if picture is None else picture
        self.slow_s = slow_s
        self.huge_bytes = huge_bytes
        self.keeps_alive = keeps_alive
        self._scheme = "http" if tls is None else "https"
        self.closing = threading.Event()
        self._files = {"/robots.txt": ServedFile(ROBOTS_TXT, "text/plain"), **(files or {})}
        self._seen: list[SeenRequest] = []
        self._lock = threading.Lock()
        self._http = _LoopbackServer(("127.0.0.1", 0), partial(_Handler, self))
        if tls is not None:
            self._http.socket = tls.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        self._scripts = _scripts(self)

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="trouble-server", daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._http.server_address[1])

    def url(self, path: str) -> str:
        """The URL of a path with a leading slash."""
        return f"{self._scheme}://127.0.0.1:{self.port}{path}"

    def trouble_url(self, trouble: Trouble) -> str:
        """The URL of a trouble."""
        return self.url(trouble.path)

    @property
    def seen(self) -> tuple[SeenRequest, ...]:
        """All requests so far, in order of arrival."""
        with self._lock:
            return tuple(self._seen)

    def count(self, path: str) -> int:
        """How often a path was requested."""
        return sum(request.path == path for request in self.seen)

    def answer(self, handler: _Handler) -> None:
        """Note a request and answer it; called in the request's own thread."""
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self._seen.append(SeenRequest(handler.path, headers, handler.client_address[1]))
        path = handler.path.partition("?")[0]
        script = self._scripts.get(path)
        if script is None and path.startswith(_HOPS):
            script = _next_hop
        if script is not None:
            script(handler)
        elif path in self._files:
            file = self._files[path]
            handler.send(200, file.data, {"Content-Type": file.content_type, **file.headers})
        else:
            handler.send(404, b"no such file\n", {"Content-Type": "text/plain"})


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def server_bind(self) -> None:
        # http.server asks the resolver for the host's name here; loopback needs no resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(
        self, owner: TroubleServer, request: socket.socket, address: object, server: _LoopbackServer
    ) -> None:
        self.owner = owner
        super().__init__(request, address, server)

    def do_GET(self) -> None:
        self.close_connection = not self.owner.keeps_alive
        # A guarded client leaves as soon as it has seen enough.
        with contextlib.suppress(ConnectionError):
            self.owner.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `TroubleServer.seen` is the log."""

    def send(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        self.send_head(
            status,
            {"Content-Length": str(len(body)), **(headers or {})},
            is_last=not self.owner.keeps_alive,
        )
        self.wfile.write(body)

    def send_head(self, status: int, headers: Mapping[str, str], *, is_last: bool = True) -> None:
        """Send status line and headers; the last answer says so and ends the connection."""
        self.close_connection = is_last
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if is_last:
            self.send_header("Connection", "close")
        self.end_headers()

    def drip(self, pieces: Iterable[bytes]) -> None:
        """Send pieces with pauses, until they or the server end."""
        for piece in pieces:
            self.wfile.write(piece)
            if self.owner.closing.wait(_DRIP_S):
                return


Script = Callable[[_Handler], None]
_JPEG = {"Content-Type": "image/jpeg"}


def _scripts(server: TroubleServer) -> dict[str, Script]:
    """One script for each trouble, by path."""
    picture = server.picture
    good = partial(_send, 200, picture, _JPEG)
    by_name: dict[str, Script] = {
        "not_found": partial(_send, 404, b"", {}),
        "forbidden": partial(_send, 403, b"", {}),
        "broken": partial(_send, 500, b"", {}),
        "flaky": _Nth(3, partial(_send, 500, b"", {}), good),
        "changing": _Nth(2, partial(_send, 503, b"", {}), partial(_send, 410, b"", {})),
        "rate_limited": partial(_send, 429, b"", {"Retry-After": "3600"}),
        "rate_limited_once": _Nth(2, partial(_send, 429, b"", {"Retry-After": "0"}), good),
        "slow_body": _slow_body,
        "slow_headers": _slow_headers,
        "truncated": partial(_truncated, picture),
        "truncated_chunk": partial(_truncated_chunk, picture),
        "cut_in_half": partial(_send, 200, picture[: len(picture) // 2], _JPEG),
        "html_as_jpg": partial(_send, 200, _HTML, _JPEG),
        "redirect_to_image": partial(_send, 302, b"", {"Location": "image.jpg"}),
        "redirect_loop": partial(_send, 301, b"", {"Location": "/trouble/loop-b.jpg"}),
        "redirect_endless": _next_hop,
        "redirect_to_metadata": partial(
            _send, 302, b"", {"Location": "http://169.254.169.254/latest/meta-data/"}
        ),
        "redirect_to_file": partial(_send, 302, b"", {"Location": "file:///etc/passwd"}),
        "redirect_to_intranet": partial(_send, 307, b"", {"Location": "http://10.0.0.1/a.jpg"}),
        "optout_noai": partial(_send, 200, picture, {**_JPEG, "X-Robots-Tag": "noai, noimageai"}),
        "optout_robots_txt": good,
        "optout_content_usage": partial(
            _send, 200, picture, {**_JPEG, "Content-Usage": "search=y, train-ai=n"}
        ),
        "optout_of_others": partial(
            _send, 200, picture, {**_JPEG, "X-Robots-Tag": "otherbot: noindex, noai"}
        ),
        "decompression_bomb": partial(_send, 200, bomb_png(), {"Content-Type": "image/png"}),
        "boasting_header": partial(_send, 200, boasting_png(), {"Content-Type": "image/png"}),
        "huge_stream": _huge,
        "huge_announced": partial(_send_head_only, {"Content-Length": str(10**12)}),
        "empty": partial(_send, 200, b"", _JPEG),
        "exif_rotated": partial(_send, 200, exif_rotated(picture), _JPEG),
        "wrong_type": partial(_send, 200, picture, {"Content-Type": "text/plain"}),
        "no_type": partial(_send, 200, picture, {}),
        "compressed": partial(_send, 200, picture, {**_JPEG, "Content-Encoding": "gzip"}),
        "not_http": _not_http,
        "reset": _reset,
    }
    paths = {trouble.name: trouble.path for trouble in (*TROUBLES, REDIRECT_TO_INTRANET)}
    return {
        **{paths[name]: script for name, script in by_name.items()},
        "/trouble/image.jpg": good,
        "/trouble/loop-b.jpg": partial(_send, 301, b"", {"Location": "/trouble/loop-a.jpg"}),
    }


class _Nth:
    """One answer until each n-th request, which gets another."""

    def __init__(self, n: int, usual: Script, nth: Script) -> None:
        self._n = n
        self._usual = usual
        self._nth = nth
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, handler: _Handler) -> None:
        with self._lock:
            self._count += 1
            script = self._usual if self._count % self._n else self._nth
        script(handler)


def _send(status: int, body: bytes, headers: Mapping[str, str], handler: _Handler) -> None:
    handler.send(status, body, headers)


def _send_head_only(headers: Mapping[str, str], handler: _Handler) -> None:
    handler.send_head(200, headers)


def _next_hop(handler: _Handler) -> None:
    path = handler.path.partition("?")[0]
    number = int(path.removeprefix(_HOPS).removesuffix(".jpg"))
    handler.send(302, b"", {"Location": f"{_HOPS}{number + 1}.jpg"})


def _slow_body(handler: _Handler) -> None:
    num_bytes = round(handler.owner.slow_s / _DRIP_S)
    handler.send_head(200, {**_JPEG, "Content-Length": str(num_bytes)})
    handler.drip(b"\xff" for _ in range(num_bytes))


def _slow_headers(handler: _Handler) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Slow: "
    num_bytes = round(handler.owner.slow_s / _DRIP_S)
    handler.drip(head[i : i + 1] or b"x" for i in range(num_bytes))


def _truncated(picture: bytes, handler: _Handler) -> None:
    handler.send_head(200, {**_JPEG, "Content-Length": str(len(picture))})
    handler.wfile.write(picture[: len(picture) // 2])


def _truncated_chunk(picture: bytes, handler: _Handler) -> None:
    handler.send_head(200, {**_JPEG, "Transfer-Encoding": "chunked"})
    handler.wfile.write(b"%x\r\n" % len(picture) + picture[: len(picture) // 2])


def _huge(handler: _Handler) -> None:
    handler.send_head(200, _JPEG)
    for _ in range(handler.owner.huge_bytes // len(_PIECE) + 1):
        handler.wfile.write(_PIECE)


def _not_http(handler: _Handler) -> None:
    handler.wfile.write(b"220 mail.example.org ESMTP ready\r\n")


def _reset(handler: _Handler) -> None:
    # Closing with a linger time of zero sends a reset instead of an orderly end.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
