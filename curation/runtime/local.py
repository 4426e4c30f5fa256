"""The local runner: one thread per stage in this process, so fetch and annotate overlap.

For a laptop, a debugger and small lists. An exception costs a shard one attempt, as on Ray; a
crash of the process (a segmentation fault, `kill -9`) ends the run, and the same command
continues it.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from annotations_schema.layout import DatasetLayout
from curation.runtime.stage import (
    MAX_ATTEMPTS,
    EventKind,
    ShardEvent,
    Stage,
    Step,
    attempt,
    begin,
    failed_attempt,
    first_steps,
    next_step,
)


def run_local(
    stages: Sequence[Stage], shards: Sequence[str], layout: DatasetLayout
) -> Iterator[ShardEvent]:
    """Run `stages` over `shards` and yield what happens, as it happens.

    Raises:
        Exception: whatever `Stage.open` raised; shards in flight keep their state on disk.
    """
    line = _Line(stages, layout)
    first_needed = len(stages)
    for step, found in first_steps(layout, stages, shards):
        yield from found
        line.inputs[step.index].put(step.name)
        first_needed = min(first_needed, step.index)
    with ExitStack() as opened:
        # All before the first shard: missing weights should cost no download, and a library that
        # fetches its weights must not meet the opener that a running fetch installs.
        for stage in stages[first_needed:]:
            stage.open()
            opened.callback(stage.close)
        yield from line.run()


@dataclass(frozen=True, slots=True)
class _End:
    """A thread has no more to say; carries the exception that ended it, if one did."""

    error: BaseException | None


class _Line:
    """Threads joined by queues: shard names go from stage to stage, events come out at the end.

    The queues are unbounded because they hold names only; the last one collects what is done.
    """

    def __init__(self, stages: Sequence[Stage], layout: DatasetLayout) -> None:
        self.stages = stages
        self.layout = layout
        self.inputs: list[queue.Queue[str | None]] = [queue.Queue() for _ in range(len(stages) + 1)]
        self.events: queue.Queue[ShardEvent | _End] = queue.Queue()
        self.stopping = threading.Event()

    def run(self) -> Iterator[ShardEvent]:
        """Start one thread per stage and yield events until all of them have ended."""
        for index, stage in enumerate(self.stages):
            # Daemon threads: Ctrl-C in the main thread must not wait for a shard to end.
            threading.Thread(
                target=self._work, args=(index,), name=f"stage-{stage.name}", daemon=True
            ).start()
        self.inputs[0].put(None)
        try:
            yield from self._drain()
        finally:
            self.stopping.set()
            for waiting in self.inputs:
                waiting.put(None)

    def _drain(self) -> Iterator[ShardEvent]:
        running = len(self.stages)
        while running:
            event = self.events.get()
            if isinstance(event, ShardEvent):
                yield event
                continue
            running -= 1
            if event.error is not None:
                raise event.error

    def _work(self, index: int) -> None:
        error: BaseException | None = None
        try:
            self._run_stage(index)
        except BaseException as raised:  # noqa: BLE001 - carried to the main thread and raised there
            error = raised
        self.inputs[index + 1].put(None)
        self.events.put(_End(error))

    def _run_stage(self, index: int) -> None:
        again: deque[str] = deque()
        for name in itertools.chain(iter(self.inputs[index].get, None), _drained(again)):
            if self.stopping.is_set():
                return
            is_done = self._do(self.stages[index], name)
            step, events = next_step(self.layout, self.stages, Step(index, name), is_done=is_done)
            for event in events:
                self.events.put(event)
            if step is not None and step.index == index:
                again.append(step.name)
            elif step is not None:
                self.inputs[step.index].put(step.name)

    def _do(self, stage: Stage, name: str) -> bool:
        """Whether `name` got its receipt within `MAX_ATTEMPTS`."""
        for num_attempts in range(1, MAX_ATTEMPTS + 1):
            self.events.put(begin(self.layout, stage, name))
            receipt, error = attempt(stage, name)
            if receipt is not None:
                self.events.put(
                    ShardEvent(stage=stage.name, shard=name, kind=EventKind.DONE, receipt=receipt)
                )
                return True
            if self.stopping.is_set():  # the stages may be closed by now: no fault of the shard
                return False
            self.events.put(
                failed_attempt(self.layout, stage, name, num_attempts=num_attempts, error=error)
            )
        return False


def _drained(names: deque[str]) -> Iterator[str]:
    """The names from the left until none is left; more may join meanwhile."""
    while names:
        yield names.popleft()
