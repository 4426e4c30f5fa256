"""A worker of N threads computes on N threads, and an image on one of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curation.annotate.looking import map_in_order
from tests.fetched_datasets import SHARD, write_fetched

CHILD = """
import json, sys, threading, time
from pathlib import Path
import cv2
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage

stage = AnnotateStage(Path(sys.argv[1]), AnnotateConfig(threads=int(sys.argv[2])))
stage.open()
alive, done = [], threading.Event()

def watch():
    # Threads of the process with a share of the work: other libraries keep idle ones.
    while not done.wait(0.005):
        alive.append(sum(t.name.startswith("annotate") for t in threading.enumerate()))

watcher = threading.Thread(target=watch, name="watcher")
watcher.start()
wall, cpu = time.perf_counter(), time.process_time()
stage.run(sys.argv[3])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
done.set()
watcher.join()
sessions = [stage._loaded.text._parts.session.session, stage._loaded.face._session]
options = [session.get_session_options() for session in sessions]
print(json.dumps({
    "cores_used": cpu / wall,
    "opencv": cv2.getNumThreads(),
    "onnxruntime": [[one.intra_op_num_threads, one.inter_op_num_threads] for one in options],
    "most_workers": max(alive),
}))
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_uses_the_threads_it_was_given_and_each_network_one(
    threads: int, photo_path: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ("astronaut", "coffee", "chelsea", "hopper")
    write_fetched(tmp_path, {name: photo_path(name).read_bytes() for name in names})
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(threads), SHARD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["opencv"] == 1
    assert seen["onnxruntime"] == [[1, 1], [1, 1]]
    # One thread works in the caller itself.
    assert seen["most_workers"] == (0 if threads == 1 else threads)
    # A busy machine gives less; nothing gives more but threads that nobody asked for.
    assert seen["cores_used"] < threads + 0.25


def test_results_stand_in_the_order_of_the_items_whatever_ends_first() -> None:
    last_is_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert last_is_done.wait(10)
        if item == 3:
            last_is_done.set()
        return item * item

    assert list(map_in_order(work, range(6), 4)) == [0, 1, 4, 9, 16, 25]


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_is_taken_than_twice_the_threads_ahead(threads: int) -> None:
    taken: list[int] = []
    items = (taken.append(n) or np.zeros(n) for n in range(50))
    for done, _ in enumerate(map_in_order(len, items, threads)):
        assert len(taken) - done <= 2 * threads


def test_an_error_of_one_item_ends_the_whole() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(lambda item: 1 // item, [2, 1, 0, 5], 2))
