"""The run lock: an operating system's lock on a disk, a lease in an object store."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import RemotePath
from curation import lock
from curation.lock import LeaseTimes, exclusive

QUICK = LeaseTimes(renew_s=0.1, lease_s=0.8, settle_s=0.1)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DatasetLayout:
    """A dataset in a store: pyarrow's own file system on this disk, behind a made-up scheme."""
    from pyarrow.fs import LocalFileSystem

    from annotations_schema import storage

    def connect(scheme: str, authority: str, process: int) -> tuple[LocalFileSystem, str]:
        return LocalFileSystem(), str(tmp_path / authority)

    monkeypatch.setattr(storage, "_connect", connect)
    (tmp_path / "bucket" / "set").mkdir(parents=True)
    return DatasetLayout(RemotePath("disk", "bucket", "set"))


def lock_file(tmp_path: Path) -> Path:
    return tmp_path / "bucket" / "set" / "run.lock"


def test_a_second_run_on_a_disk_is_refused_at_once(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path)
    with exclusive(layout) as check:
        check()
        started = time.monotonic()
        with pytest.raises(UsageError, match="another run is working on it"), exclusive(layout):
            pass
        assert time.monotonic() - started < 0.5
    with exclusive(layout):
        pass


def test_a_folder_made_for_the_lock_goes_with_it_where_nothing_came_into_it(tmp_path: Path) -> None:
    empty, filled = tmp_path / "empty", tmp_path / "filled"
    with exclusive(DatasetLayout(empty)):
        assert empty.is_dir()
    with exclusive(DatasetLayout(filled)):
        (filled / "plan").mkdir()
    assert not empty.exists()
    assert (filled / "plan").is_dir()


def test_a_second_run_in_a_store_is_refused_when_the_first_gives_a_sign(
    store: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    with exclusive(store, QUICK) as check:
        with (
            pytest.raises(UsageError, match="another run is working on it"),
            exclusive(store, QUICK),
        ):
            pass
        check()
    assert "waiting 0.8 s to see whether it lives" in capsys.readouterr().err


def test_the_lease_is_gone_after_the_run_even_one_that_failed(
    store: DatasetLayout, tmp_path: Path
) -> None:
    with exclusive(store, QUICK):
        assert lock_file(tmp_path).exists()
    assert not lock_file(tmp_path).exists()
    with pytest.raises(ZeroDivisionError), exclusive(store, QUICK):
        raise ZeroDivisionError
    assert not lock_file(tmp_path).exists()


def test_a_long_run_keeps_its_lease(store: DatasetLayout) -> None:
    with exclusive(store, QUICK) as check:
        time.sleep(2 * QUICK.lease_s)
        check()


@pytest.mark.parametrize("left", ['{"owner": "x", "number": 3, "holder": "h:1"}', "no json", ""])
def test_what_a_dead_run_left_is_taken_over_after_a_lease(
    store: DatasetLayout, tmp_path: Path, left: str
) -> None:
    lock_file(tmp_path).write_text(left)
    started = time.monotonic()
    with exclusive(store, QUICK) as check:
        assert time.monotonic() - started >= QUICK.lease_s
        check()


def test_the_clock_on_the_wall_plays_no_part(
    store: DatasetLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter(range(10**9, -(10**12), -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    with exclusive(store, QUICK) as check:
        time.sleep(2 * QUICK.lease_s)
        check()


def test_of_two_that_begin_together_exactly_one_goes_on(store: DatasetLayout) -> None:
    begin, ends = threading.Barrier(2), list[str]()

    def work() -> None:
        begin.wait()
        try:
            with exclusive(store, QUICK):
                time.sleep(3 * QUICK.settle_s)
                ends.append("ran")
        except UsageError:
            ends.append("refused")

    both = [threading.Thread(target=work) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(ends) == ["ran", "refused"]


def test_a_run_whose_lease_another_took_stops_with_an_error(
    store: DatasetLayout, tmp_path: Path
) -> None:
    holding = exclusive(store, QUICK)
    check = holding.__enter__()
    lock_file(tmp_path).write_text('{"owner": "another"}')
    time.sleep(3 * QUICK.renew_s)
    with pytest.raises(UsageError, match="lost its lock"):
        check()
    with pytest.raises(UsageError, match="lost its lock"):
        holding.__exit__(None, None, None)
    assert "another" in lock_file(tmp_path).read_text(), "the other's lease stays"


def test_a_run_that_could_not_renew_in_time_stops_with_an_error(
    store: DatasetLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: RemotePath, value: object) -> None:
        raise UsageError(f"{path}: no answer")

    holding = exclusive(store, QUICK)
    check = holding.__enter__()
    monkeypatch.setattr(lock, "write_json", refuse)
    check()
    time.sleep(QUICK.lease_s + 2 * QUICK.renew_s)
    with pytest.raises(UsageError, match="lost its lock"):
        check()
    with pytest.raises(UsageError, match="lost its lock"):
        holding.__exit__(None, None, None)


def test_a_lease_too_short_for_its_renewals_is_misuse() -> None:
    with pytest.raises(UsageError, match="renew_s is 10"):
        LeaseTimes(renew_s=10, lease_s=15)
