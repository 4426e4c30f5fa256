"""Event files that TensorBoard reads: scalars and pictures by step.

Written on the spot, record by record. The library's own writer hands records to a thread, and the
loader forks its workers: a thread at that moment may hold a lock that the fork never gets back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_RGB = 3


class TensorboardFile:
    """One event file, for one start or resume of a run.

    Args:
        folder: TensorBoard's folder of the run.
        start_step: steps done already. What earlier files say of later steps is taken back, so
            that TensorBoard shows every step once.
    """

    def __init__(self, folder: Path, *, start_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        path = folder / f"events.out.tfevents.{time.time_ns():020d}"
        self._records = RecordWriter(path.open("xb"))
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=start_step + 1, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one number per tag, `group/name`."""
        summary = Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()])
        self._write(Event(step=step, summary=summary))

    def image(self, step: int, tag: str, png: bytes, width: int, height: int) -> None:
        """Add an RGB picture of width x height pixels, encoded as PNG."""
        image = Summary.Image(width=width, height=height, colorspace=_RGB, encoded_image_string=png)
        self._write(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()  # a kill -9 may come at any moment
