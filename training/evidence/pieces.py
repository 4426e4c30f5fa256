"""Running pieces: each a process of its own with a log; what is done is not done again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from annotations_schema.errors import UsageError
from annotations_schema.layout import sha256_file
from training.evidence.plan import Piece

_POLL_S = 0.5
_LOG_LINES = 3


class OutOfTimeError(Exception):
    """The time that was given is over; the same command goes on."""


class _Running(NamedTuple):
    piece: Piece
    process: subprocess.Popen[bytes]
    log: Path
    started: float


def run_pieces(
    pieces: Sequence[Piece], out: Path, side_by_side: int, deadline: float | None, threads: int
) -> None:
    """Run what is not done, in order, several at once; says on stderr what begins and ends.

    Args:
        pieces: commands that do not need each other.
        out: folder; logs go to out/logs.
        side_by_side: processes at once.
        deadline: `time.monotonic()` at which everything is asked to stop; None: never.
        threads: of each process, for the libraries that ask the environment.

    Raises:
        OutOfTimeError: stopped at the deadline; trainings wrote their checkpoint.
        UsageError: a piece failed; names its log and its last lines.
    """
    waiting = [piece for piece in pieces if not piece.done.exists()]
    for piece in pieces:
        if piece not in waiting:
            _say(f"{piece.name}: done before")
    running: list[_Running] = []
    try:
        while waiting or running:
            if deadline is not None and time.monotonic() >= deadline:
                raise OutOfTimeError
            while waiting and len(running) < side_by_side:
                running.append(_start(waiting.pop(0), out, threads))
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                _finish(one)
    finally:
        for one in running:
            one.process.send_signal(signal.SIGINT)  # a training writes its checkpoint
        for one in running:
            one.process.wait()


def forget_if_of_others(result: Path, checkpoints: Mapping[str, Path]) -> None:
    """Remove the result of an evaluation that judged other checkpoints than those that stand."""
    if not result.exists():
        return
    judged = json.loads(result.read_text())["checkpoints"]
    if judged != {name: sha256_file(path) for name, path in checkpoints.items()}:
        _say(f"{result.parent.name}: judged other checkpoints; again")
        result.unlink()


def _start(piece: Piece, out: Path, threads: int) -> _Running:
    log = out / "logs" / f"{piece.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "training", *piece.arguments]
    _say(f"{piece.name}: begins, log in {log}")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("ab") as file:
        file.write(f"$ insight-train {shlex.join(piece.arguments)}\n".encode())
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    return _Running(piece, process, log, time.monotonic())


def _finish(one: _Running) -> None:
    if one.process.returncode != 0:
        last = one.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        raise UsageError(
            f"{one.piece.name} ended with exit code {one.process.returncode}: "
            f"{' | '.join(last)} (all of it in {one.log})"
        )
    _say(f"{one.piece.name}: done in {(time.monotonic() - one.started) / 60:.1f} min")


def _say(text: str) -> None:
    sys.stderr.write(f"evidence: {text}\n")
    sys.stderr.flush()
