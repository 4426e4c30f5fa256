from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from annotations_schema.codes import FailureCode
from curation.demo.server import TroubleServer
from curation.fetch.config import FetchConfig

Fetch = Callable[..., Any]
IMPATIENT = {"slow_after_s": 0.3, "retries": 0}


def test_a_body_below_the_least_rate_is_given_up(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    # It drips 20 bytes a second, so neither the deadline nor silence ends it.
    begin = time.monotonic()
    impatient = replace(config, min_bytes_per_s=100, **IMPATIENT)
    _, facts = fetch(server.url("/trouble/slow-body.jpg"), impatient)
    assert 0.25 < time.monotonic() - begin < 2
    assert (facts.code, facts.http_status) == (FailureCode.BODY_TOO_SLOW, 200)
    assert "bytes in 0." in facts.detail


def test_a_body_that_falls_silent_is_given_up_too(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    port = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 200)
    begin = time.monotonic()
    impatient = replace(config, min_bytes_per_s=400, **IMPATIENT)
    _, facts = fetch(f"http://127.0.0.1:{port}/a", impatient)
    # 200 bytes at 400 a second are worth half a second.
    assert 0.45 < time.monotonic() - begin < 2
    assert facts.code is FailureCode.BODY_TOO_SLOW
    assert facts.detail.startswith("200 bytes in 0.5 s")


@pytest.mark.parametrize("min_bytes_per_s", [0, 10])
def test_a_slow_body_above_the_rate_or_without_one_is_read(
    config: FetchConfig, fetch: Fetch, min_bytes_per_s: float
) -> None:
    def drip(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
            for _ in range(20):
                client.sendall(b"x")
                time.sleep(0.04)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        patient = replace(config, min_bytes_per_s=min_bytes_per_s, **IMPATIENT)
        body, _ = fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a", patient)
    assert body == b"x" * 20


def test_a_body_of_tiny_chunks_takes_no_more_memory_than_its_bytes(
    config: FetchConfig, fetch: Fetch, serve: Callable[..., int]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"2\r\nab\r\n" * 100_000 + b"0\r\n\r\n"
    port = serve(answer)
    tracemalloc.start()
    try:
        data, _ = fetch(f"http://127.0.0.1:{port}/a", replace(config, deadline_s=30))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data == b"ab" * 100_000
    assert peak < 10 * len(data)


def test_the_deadline_comes_before_the_least_rate(
    server: TroubleServer, config: FetchConfig, fetch: Fetch
) -> None:
    brief = replace(config, deadline_s=0.3, slow_after_s=5.0)
    _, facts = fetch(server.url("/trouble/slow-body.jpg"), brief)
    assert facts.code is FailureCode.DEADLINE_EXCEEDED
