"""An HTTP server that is not the bottleneck: whole answers from memory, in a process of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

ROBOTS_TXT = b"User-agent: *\nDisallow: /private/\nDisallow: /*.php$\nAllow: /\n"


@contextmanager
def serving(files: Mapping[str, bytes], certificate: Path | None = None) -> Iterator[int]:
    """The port of a server on 127.0.0.1; https where a file with key and certificate is given."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(dict(files), certificate, theirs), daemon=True)
    process.start()
    try:
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join()


def _run(files: dict[str, bytes], certificate: Path | None, ready: Connection) -> None:
    asyncio.run(_serve(files, certificate, ready))


async def _serve(files: dict[str, bytes], certificate: Path | None, ready: Connection) -> None:
    tls = None
    if certificate is not None:
        import ssl

        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    answers = {
        b"/robots.txt": _answer(b"text/plain", ROBOTS_TXT),
        **{path.encode(): _answer(b"image/jpeg", data) for path, data in files.items()},
    }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Server(answers), "127.0.0.1", 0, ssl=tls, backlog=1024
    )
    ready.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _answer(content_type: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (content_type, len(body)) + body


class _Server(asyncio.Protocol):
    def __init__(self, answers: Mapping[bytes, bytes]) -> None:
        self._answers = answers
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        while b"\r\n\r\n" in self._waiting:
            head, _, self._waiting = self._waiting.partition(b"\r\n\r\n")
            self._transport.write(self._answers[head.split(b" ", 2)[1]])
            if b"connection: close" in head.lower():
                self._transport.close()
