"""Each check of the doctor is shown a fit machine and an unfit one."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import RemotePath
from curation.annotate.protocols import Provider
from curation.cli import main
from curation.doctor import detectors as doctor_detectors
from curation.doctor import doctor
from curation.doctor import network as doctor_network
from curation.doctor.detectors import check_detector
from curation.doctor.doctor import (
    GIB,
    Check,
    Verdict,
    available_memory_bytes,
    check_clock,
    check_cpus,
    check_descriptors,
    check_disk,
    check_libraries,
    check_machine,
    check_memory,
    check_shared_memory,
    check_writing,
    cpu_quota,
    nearest_existing,
)
from curation.doctor.network import check_resolver, check_store, hosts_of

OK, WARN, FAIL = Verdict.OK, Verdict.WARN, Verdict.FAIL


def test_a_mend_is_told_only_where_something_is_off() -> None:
    fine = check_memory(16 * GIB)
    assert (fine.verdict, fine.mend) == (OK, "")
    assert str(fine) == "ok   memory: 16.0 GiB available"
    assert str(check_memory(GIB // 2)).startswith("fail memory: 0.5 GiB available; fewer --workers")


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (check_descriptors(65_536, 64, 2), OK),
        (check_descriptors(600, 64, 2), WARN),
        (check_descriptors(256, 64, 1), FAIL),
        (check_memory(2 * GIB), WARN),
        (check_cpus(8, 8, None), OK),
        (check_cpus(8, 8, 8.0), OK),
        (check_cpus(8, 64, 2.5), WARN),
        (check_libraries(["pyarrow"]), OK),
        (check_libraries(["pyarrow", "no-such-library"]), FAIL),
    ],
)
def test_verdicts_follow_the_figures(check: Check, verdict: Verdict) -> None:
    assert check.verdict is verdict
    assert bool(check.mend) is (verdict is not OK)


def test_what_is_absent_is_named() -> None:
    assert "no-such-library absent" in check_libraries(["no-such-library"]).detail


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
        ({}, None),
    ],
)
def test_the_quota_of_both_kinds_of_control_groups_is_read(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    write(tmp_path, files)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, 8 * GIB),
        ({"memory.max": "max\n", "memory.current": "1\n"}, 8 * GIB),
        ({"memory.max": f"{4 * GIB}\n", "memory.current": f"{GIB}\n"}, 3 * GIB),
        ({"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}, 0),
    ],
)
def test_memory_is_that_of_the_machine_or_of_the_control_group(
    tmp_path: Path, files: dict[str, str], available: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    write(tmp_path, files)
    assert available_memory_bytes(meminfo, tmp_path) == available


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_shared_memory_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    assert check_shared_memory(tmp_path / "none").verdict is WARN


def test_a_clock_that_jumps_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_clock().verdict is OK
    now = time.time()
    ticks = iter([now, now + 3600])
    monkeypatch.setattr(doctor.time, "time", lambda: next(ticks))
    assert check_clock().verdict is WARN


def test_a_small_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=GIB // 2))
    assert check_disk("disk", tmp_path).verdict is FAIL


def test_writing_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    check = check_writing(tmp_path)
    assert check.verdict in (OK, WARN)
    assert "fsync of 64 KiB takes" in check.detail
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails() -> None:
    assert check_writing(Path("/proc")).verdict is FAIL


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path


@pytest.mark.parametrize("root", ["urls.txt", "urls.txt/dataset"])
def test_a_file_in_the_folder_s_place_fails(tmp_path: Path, root: str) -> None:
    (tmp_path / "urls.txt").write_text("http://a.example/1.jpg\n")
    checks = check_machine(tmp_path / root, fetch_threads=1, fetch_workers=1)
    assert [one.detail for one in checks if one.verdict is FAIL] == [
        f"{tmp_path / 'urls.txt'} is a file"
    ]


def test_the_machine_is_checked_without_a_folder_too() -> None:
    names = {check.name for check in check_machine(None, fetch_threads=1, fetch_workers=1)}
    assert {"libraries", "ray", "CPUs", "clock", "temporary folder"} <= names
    assert not {"disk", "writing"} & names


def test_the_resolver_is_asked_from_many_threads_at_a_time() -> None:
    at_a_time = threading.Barrier(8, timeout=10)

    def resolve(host: str) -> None:
        at_a_time.wait()

    check = check_resolver([f"h{number}.example" for number in range(4)], 8, resolve)
    assert "256 look-ups of 4 names by 8 threads" in check.detail
    assert check.verdict is OK


def test_names_without_answer_are_named() -> None:
    def resolve(host: str) -> None:
        if host == "gone.example":
            raise OSError("no such name")

    check = check_resolver(["a.example", "gone.example"], 4, resolve)
    assert check.verdict is WARN
    assert "1 names without answer (gone.example)" in check.detail
    assert check_resolver(["gone.example"], 4, resolve).verdict is FAIL


def test_a_slow_resolver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_network, "LOOKUPS", 16)
    check = check_resolver(["a.example"], 1, lambda host: time.sleep(0.025))
    assert (check.verdict, "caching resolver" in check.mend) == (WARN, True)


def test_the_hosts_that_are_asked_for_are_the_datasets_own(
    finished_dataset: Path, tmp_path: Path
) -> None:
    assert hosts_of(DatasetLayout(finished_dataset)) == ["a.example", "b.example"]
    assert hosts_of(DatasetLayout(tmp_path)) == []


def test_a_store_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def put(self: RemotePath, local: Path) -> None:
        raise UsageError(f"{self}: no answer")

    monkeypatch.setattr(RemotePath, "put", put)
    check = check_store(RemotePath("s3", "bucket", "set"))
    assert check.verdict is FAIL
    assert "no answer" in check.detail


def test_a_detector_runs_where_its_session_says() -> None:
    weights, running = check_detector("face", "retinaface_mnet025", Provider.CPU)
    assert (weights.verdict, running.verdict) == (OK, OK)
    assert "MIT" in weights.detail
    assert "retinaface_mnet025 ran on CPUExecutionProvider" in running.detail


def test_a_provider_that_is_not_really_active_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class FellBack:
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    from curation.annotate import onnx_session

    monkeypatch.setattr(
        onnx_session, "execution_providers", lambda provider: ["CUDAExecutionProvider"]
    )
    monkeypatch.setattr(onnx_session.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnx_session.onnxruntime, "InferenceSession", lambda *given, **more: FellBack()
    )
    _, running = check_detector("face", "retinaface_mnet025", Provider.CUDA)
    assert running.verdict is FAIL
    assert "onnxruntime runs on CPUExecutionProvider" in running.detail


def test_weights_that_are_not_there_fail_and_nothing_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCTR_CACHE_DIR", str(tmp_path))
    (weights,) = check_detector("text", "doctr_db_resnet50", Provider.CPU)
    assert weights.verdict is FAIL
    assert "--text-weights" in weights.mend
    assert list(tmp_path.iterdir()) == []


def test_a_licence_that_restricts_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = next(
        row for row in doctor_detectors.list_detectors() if row.name == "retinaface_mnet025"
    )
    row = ready._replace(weights_licence="non-commercial research only")
    monkeypatch.setattr(doctor_detectors, "list_detectors", lambda: [row])
    weights, _ = check_detector("face", "retinaface_mnet025", Provider.CPU)
    assert (weights.verdict, "licence" in weights.mend) == (WARN, True)


def test_an_unknown_detector_is_misuse_and_none_is_not_checked() -> None:
    with pytest.raises(UsageError, match="unknown text detector"):
        check_detector("text", "no_such", Provider.CPU)
    assert check_detector("text", "none", Provider.CPU) == []


def test_on_the_command_line_a_failure_exits_with_1(
    finished_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["doctor", str(finished_dataset), "--text-detector", "none", "--face-detector", "none"]
    assert main([*typed, "--host", "localhost", "--json"]) == 0
    said = capsys.readouterr()
    checks = json.loads(said.out)["checks"]
    assert {"name", "verdict", "detail", "mend"} == set(checks[0])
    assert said.err.count("\n") == len(checks) + 1
    assert main([*typed, "--host", "localhost", "--fetch-threads", "10000000"]) == 1
    assert "fail file descriptors" in capsys.readouterr().err
