"""Checks that ask others: the resolver, and the object store of a dataset."""

from __future__ import annotations

import itertools
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pyarrow.parquet as pq

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, atomic_write
from annotations_schema.storage import RemotePath
from curation.doctor.doctor import Check, Verdict, graded

MAX_HOSTS = 64
LOOKUPS = 256
SLOW_S = 2.0
LEAST_ANSWERS_PER_S = 50.0

Resolve = Callable[[str], object]


def hosts_of(layout: DatasetLayout) -> list[str]:
    """A few host names of a planned dataset, in the order of its rows."""
    hosts: dict[str, None] = {}
    for shard in layout.shards_planned()[:4]:
        for url in (
            pq.read_table(str(layout.plan(shard)), columns=["url"]).column("url").to_pylist()
        ):
            try:
                host = urlsplit(url or "").hostname
            except ValueError:
                continue
            if host:
                hosts[host] = None
    return list(itertools.islice(hosts, MAX_HOSTS))


def system_resolver(host: str) -> object:
    """The addresses of a host; raises OSError where there are none."""
    return socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)


def check_resolver(hosts: Sequence[str], threads: int, resolve: Resolve = system_resolver) -> Check:
    """Ask for host names from many threads, as fetch does: how many answers come, how fast.

    Args:
        hosts: names; each is asked for several times, up to `LOOKUPS` questions in all.
        threads: questions at a time.
        resolve: raises OSError where there is no answer.
    """
    questions = list(itertools.islice(itertools.cycle(hosts), max(LOOKUPS, len(hosts))))
    started = time.perf_counter()
    with ThreadPoolExecutor(threads, thread_name_prefix="doctor") as pool:
        answers = list(pool.map(lambda host: _ask(host, resolve), questions))
    elapsed_s = time.perf_counter() - started
    failed = sorted({host for host, took_s in zip(questions, answers, strict=True) if took_s < 0})
    slow = sum(took_s > SLOW_S for took_s in answers)
    rate = sum(took_s >= 0 for took_s in answers) / max(elapsed_s, 1e-9)
    named = f" ({', '.join(failed[:3])})" if failed else ""
    return graded(
        "DNS",
        f"{len(questions)} look-ups of {len(set(hosts))} names by {threads} threads: {rate:,.0f} "
        f"answers/s, {slow} slower than {SLOW_S:g} s, {len(failed)} names without answer{named}",
        fails=len(failed) == len(set(hosts)),
        warns=bool(failed) or slow > 0 or rate < LEAST_ANSWERS_PER_S,
        mend="run a caching resolver on this machine (unbound, knot) and name it in "
        "/etc/resolv.conf: public ones limit how much they answer",
    )


def _ask(host: str, resolve: Resolve) -> float:
    """Seconds until the answer, negative where none came."""
    started = time.perf_counter()
    try:
        resolve(host)
    except OSError:
        return -1.0
    return time.perf_counter() - started


def check_store(root: RemotePath) -> Check:
    """Write a small object below a dataset's root, read it and remove it."""
    path = root / f".doctor.{uuid.uuid4().hex[:12]}"
    started = time.perf_counter()
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"doctor")
        is_same = path.read_bytes() == b"doctor"
        path.unlink()
    except (UsageError, OSError) as error:
        return Check(
            name="object store",
            verdict=Verdict.FAIL,
            detail=" ".join(str(error).split()),
            mend="check bucket, endpoint and credentials (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID)",
        )
    took_ms = 1000 * (time.perf_counter() - started)
    return graded(
        "object store",
        f"{root}: put, get and delete of a small object take {took_ms:.0f} ms",
        fails=not is_same,
        warns=took_ms > 2000,
        mend="run nearer to the store",
    )
