"""One run at a time on a dataset: two would undo each other's receipts.

On a local path a lock of the operating system: the second run is refused at once, and the lock of
a killed run is gone with it.

An object store has no locks, so there a run leases the dataset: an object `run.lock` that names it
and that it writes again every few seconds with the next number. Whoever finds the object watches
it. As soon as it changes its owner lives, and the second run is refused; where it stays the same
for the whole lease its owner is dead, and the second run takes it over. Each process measures with
its own steady clock, so no clock that is wrong or jumps does harm.

What the lease guarantees: two runs never go on together unnoticed. A store without conditional
writes cannot order two runs that begin in the same instant, so each reads back what it wrote after
a pause, and the one whose name is gone is refused. An owner that cannot renew its lease in time (a
suspended machine, a dead network), or finds another's name in it, stops with an error at its next
event. What it does not guarantee: until that event such a run may still publish shards. They are
whole, for an object appears at once; where the two runs wrote the same shard at the same time
`verify` says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, write_json
from annotations_schema.storage import RemotePath

Check = Callable[[], None]
"""Raises UsageError where the dataset is no longer this run's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseTimes:
    """How a lease is kept, in seconds of a steady clock."""

    renew_s: float = 4.0
    """Between two renewals."""
    lease_s: float = 20.0
    """Unchanged for so long, the object is a dead run's."""
    settle_s: float = 1.0
    """From writing one's name to reading it back; longer than a small object takes to write."""

    def __post_init__(self) -> None:
        if not 0 < self.renew_s < self.lease_s / 2:
            raise UsageError(f"renew_s is {self.renew_s}; it must be below half of the lease")


LEASE_TIMES = LeaseTimes()


@contextlib.contextmanager
def exclusive(layout: DatasetLayout, times: LeaseTimes = LEASE_TIMES) -> Iterator[Check]:
    """Keep others from working on the dataset for the length of a `with` block.

    Yields a check to call now and then; leaving the block calls it as well.

    Raises:
        UsageError: somebody works on it already, or took it over while this run could not renew.
    """
    if isinstance(layout.root, RemotePath):
        yield from _leased(layout.root / "run.lock", times)
    else:
        yield from _locked(layout.root)


def _locked(root: Path) -> Iterator[Check]:
    import fcntl

    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(root) from error
        if os.fstat(file.fileno()).st_nlink == 0:  # removed as below since it was opened
            raise _taken(root)
        try:
            yield lambda: None
        finally:
            if is_new and list(root.iterdir()) == [path]:
                path.unlink()
                root.rmdir()


def _leased(path: RemotePath, times: LeaseTimes) -> Iterator[Check]:
    lease = _Lease(path=path, times=times)
    lease.acquire()
    renewing = threading.Thread(target=lease.keep, name="run-lock", daemon=True)
    renewing.start()
    try:
        yield lease.check
    finally:
        lease.stopping.set()
        renewing.join()
        lease.release()
    lease.check()


@dataclass(kw_only=True, slots=True)
class _Lease:
    path: RemotePath
    times: LeaseTimes
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 0
    renewed_at: float = 0.0
    """When the last renewal that arrived was begun, on this process's steady clock."""
    is_lost: bool = False
    stopping: threading.Event = field(default_factory=threading.Event)

    def acquire(self) -> None:
        """Wait until the lease is free or its owner proves dead, then write this run's name."""
        self._wait_for_others()
        self._write()
        time.sleep(self.times.settle_s)
        if not self._is_mine(self._read()):
            raise _taken(self.path.parent)

    def keep(self) -> None:
        """Renew until the run ends or the lease is another's."""
        while not self.stopping.wait(self.times.renew_s) and not self.is_lost:
            with contextlib.suppress(UsageError):  # the store did not answer: `check` counts on
                if self._is_mine(self._read()):
                    self._write()
                else:
                    self.is_lost = True

    def check(self) -> None:
        """Raises UsageError where another run has the lease, or may have it by now."""
        if self.is_lost or time.monotonic() - self.renewed_at > self.times.lease_s:
            raise UsageError(
                f"{self.path.parent}: this run lost its lock, for the store did not answer or "
                "another run took over; what is done stays, run the same command again"
            )

    def release(self) -> None:
        """Remove the object where it is this run's; a store that is gone keeps it for a lease."""
        with contextlib.suppress(UsageError):
            if self._is_mine(self._read()):
                self.path.unlink(missing_ok=True)

    def _wait_for_others(self) -> None:
        first = self._read()
        if first is None:
            return
        sys.stderr.write(
            f"insight-curate: {self.path}: left by a run of {_named(first)}; waiting "
            f"{self.times.lease_s:g} s to see whether it lives\n"
        )
        found_at = time.monotonic()
        while time.monotonic() - found_at < self.times.lease_s:
            time.sleep(min(1.0, self.times.renew_s / 4))
            found = self._read()
            if found is None:
                return
            if found != first:
                raise _taken(self.path.parent)

    def _read(self) -> str | None:
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        begun = time.monotonic()
        self.number += 1
        holder = f"{socket.gethostname()}:{os.getpid()}"
        write_json(self.path, {"owner": self.owner, "number": self.number, "holder": holder})
        self.renewed_at = begun

    def _is_mine(self, text: str | None) -> bool:
        return text is not None and self.owner in text


def _named(text: str) -> str:
    """Host and process in a lock object, or that it has none."""
    try:
        return str(json.loads(text)["holder"])
    except (ValueError, KeyError, TypeError):
        return "an unknown owner"


def _taken(root: Path | RemotePath) -> UsageError:
    return UsageError(f"{root}: another run is working on it; wait for it or stop it")
