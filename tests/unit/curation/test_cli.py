from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, write_json
from curation import cli
from curation.annotate.config import AnnotateConfig
from curation.cli import EXIT_USAGE, main, parse
from curation.commands.configs import curate_config, machine_config
from curation.config import CurateConfig
from curation.machine import MachineConfig, Runner, check_cluster
from curation.options import DatasetOptions, OutputOptions, RunnerOptions, WorkerOptions

NO_DETECTORS = ("--text-detector", "none", "--face-detector", "none")


@pytest.fixture
def good_list(tmp_path: Path) -> Path:
    path = tmp_path / "list.csv"
    path.write_text("url,words\nhttp://a.example/1.jpg,one\nhttp://a.example/2.jpg,two\n")
    return path


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("insight-curate: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def test_the_defaults_on_the_command_line_are_those_of_the_configuration() -> None:
    assert curate_config(DatasetOptions(), WorkerOptions()) == CurateConfig()
    assert machine_config(RunnerOptions()) == MachineConfig()


def test_every_option_reaches_the_configuration(tmp_path: Path) -> None:
    weights = tmp_path / "w.onnx"
    command = parse(
        f"run list.csv --out d --url-col u --caption-col c --sha256-col s --license-col l "
        f"--shard-size 7 --text-detector doctr_db_resnet50 --face-detector insightface_onnx "
        f"--text-score-min 0.25 --face-score-min 0.75 --provider cuda --deadline-s 4.5 --retries 1 "
        f"--max-bytes 99 --max-pixels 1000 --hash-policy keep --allow-private-network "
        f"--fetch-threads 5 --threads 2 --text-weights {weights} --face-weights {weights} "
        f"--runner ray --ray-address 10.0.0.1:6379 --workers 3 --fetch-workers 2 --resume "
        f"--min-bytes-per-s 7 --user-agent me/1 --ignore-robots-txt "
        f"--host-connections 2 --host-requests-per-s 0.5 "
        f"--max-side 640 --quality 80 --shard-deadline-s 60 "
        f"--text-side-min-px 4 --face-side-min-px 20 --batch-size 8 --gpus-per-worker 0.25 "
        f"--json --debug".split()
    )
    assert isinstance(command, cli.Run)
    assert (command.urls, command.out, command.resume) == ("list.csv", "d", True)
    assert command.output == OutputOptions(json=True, debug=True)
    for options in (command.dataset, command.worker, command.runner):
        for field in fields(options):
            assert getattr(options, field.name) != field.default, field.name
    config = curate_config(command.dataset, command.worker)
    plan, fetch, annotate = config.plan, config.fetch, config.annotate
    assert (plan.url_column, plan.caption_column, plan.sha256_column) == ("u", "c", "s")
    assert (plan.license_column, plan.shard_size) == ("l", 7)
    assert (fetch.deadline_s, fetch.retries, fetch.max_bytes, fetch.threads) == (4.5, 1, 99, 5)
    assert (fetch.hash_policy, fetch.allow_private_network) == ("keep", True)
    assert (fetch.min_bytes_per_s, fetch.user_agent, fetch.respect_robots_txt) == (7, "me/1", False)
    assert (fetch.host_connections, fetch.host_requests_per_s) == (2, 0.5)
    assert (fetch.max_side, fetch.quality, fetch.shard_deadline_s) == (640, 80, 60)
    assert fetch.limits.max_pixels == annotate.max_pixels == 1000
    assert annotate == AnnotateConfig(
        text_detector="doctr_db_resnet50",
        face_detector="insightface_onnx",
        text_weights=str(weights),
        face_weights=str(weights),
        text_score_min=0.25,
        face_score_min=0.75,
        provider=annotate.provider,
        threads=2,
        max_pixels=1000,
        text_side_min_px=4.0,
        face_side_min_px=20.0,
        batch_size=8,
    )
    assert annotate.provider == "cuda"
    assert machine_config(command.runner) == MachineConfig(
        runner=Runner.RAY,
        ray_address="10.0.0.1:6379",
        workers=3,
        fetch_workers=2,
        gpus_per_worker=0.25,
    )


@pytest.mark.parametrize(
    "name", ["doctor", "tombstone", "retry", "fetch", "annotate", "status", "verify", "detectors"]
)
def test_each_command_parses_with_little(name: str) -> None:
    arguments = [name] if name == "detectors" else [name, "dir"]
    assert type(parse(arguments)).__name__.lower() == name


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "dance",
        "run",
        "run list.csv",
        "run list.csv --out d --shard-size many",
        "run list.csv --out d --runner slurm",
        "status",
        "report d",
        "select d",
    ],
)
def test_a_typing_error_exits_with_2(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(typed.split())
    assert stopped.value.code == EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err


def test_help_and_typing_errors_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from curation.cli import main\n"
        "try:\n    main(['run', '--help'])\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "heavy = {'ray', 'numpy', 'pyarrow', 'img2dataset', 'cv2', 'torch', 'onnxruntime', 'PIL'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--allow-private-network" in done.stdout


def bad_lists(folder: Path) -> dict[str, Path]:
    (folder / "empty.txt").write_bytes(b"")
    (folder / "empty.csv").write_text("url\n")
    pq.write_table(pa.table({"url": pa.array([], pa.string())}), str(folder / "empty.parquet"))
    (folder / "broken.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    (folder / "column.csv").write_text("link\nhttp://a.example/1.jpg\n")
    pq.write_table(pa.table({"link": ["http://a.example/1.jpg"]}), str(folder / "column.parquet"))
    (folder / "list.xlsx").write_bytes(b"PK")
    (folder / "folder.csv").mkdir()
    names = ("empty.txt", "empty.csv", "empty.parquet", "broken.parquet", "column.csv")
    others = ("column.parquet", "list.xlsx", "folder.csv", "missing.csv")
    return {name: folder / name for name in (*names, *others)}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing.csv", "No such file"),
        ("folder.csv", "cannot be read"),
        ("empty.txt", "has no rows"),
        ("empty.csv", "has no rows"),
        ("empty.parquet", "has no rows"),
        ("broken.parquet", "cannot be read"),
        ("column.csv", "no column 'url'"),
        ("column.parquet", "no column 'url'"),
        ("list.xlsx", ".parquet"),
    ],
)
def test_a_bad_list_is_one_line_exit_2_and_nothing_written(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = bad_lists(tmp_path)[name]
    out = tmp_path / "dataset"
    assert main(["run", str(source), "--out", str(out), *NO_DETECTORS]) == EXIT_USAGE
    message = one_line(capsys)
    assert says in message
    assert str(source) in message
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--text-detector nonsense", "unknown text detector 'nonsense'; choose one of ppocr"),
        ("--face-detector nonsense", "unknown face detector 'nonsense'"),
        ("--caption-col nothing", "no column 'nothing'"),
        ("--shard-size 0", "shard_size is 0"),
        ("--deadline-s -1", "deadline_s is -1"),
        ("--threads 0", "threads is 0"),
        ("--workers 0", "workers is 0"),
        ("--ray-address auto", "add it"),
        ("--resume", "holds no dataset to resume"),
        ("--runner ray --ray-address nonsense", "is not HOST:PORT"),
    ],
)
def test_a_bad_setting_is_one_line_exit_2_and_nothing_written(
    options: str, says: str, good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    typed = ["run", str(good_list), "--out", str(out), *NO_DETECTORS, *options.split()]
    assert main(typed) == EXIT_USAGE
    assert says in one_line(capsys)
    assert not out.exists()


def test_a_cluster_where_nothing_listens_is_known_at_once() -> None:
    machine = MachineConfig(runner=Runner.RAY, ray_address="127.0.0.1:1")
    with pytest.raises(UsageError, match=r"nothing answers at the Ray address 127\.0\.0\.1:1"):
        check_cluster(machine)


def test_weights_with_a_wrong_hash_are_one_line_and_nothing_written(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.onnx"
    weights.write_bytes(b"not these")
    out = tmp_path / "dataset"
    typed = ["run", str(good_list), "--out", str(out), "--face-detector", "none"]
    assert main([*typed, "--text-weights", str(weights)]) == EXIT_USAGE
    message = one_line(capsys)
    assert "sha256" in message
    assert str(weights) in message
    assert not out.exists()


def test_weights_that_are_not_there_are_one_line_and_nothing_written(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    typed = ["run", str(good_list), "--out", str(out), "--text-detector", "none"]
    assert main([*typed, "--face-detector", "insightface_onnx"]) == EXIT_USAGE
    assert "insightface_onnx" in one_line(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ("--shard-size 3", "plan.shard_size was 1000 and is now 3"),
        ("--retries 0", "fetch.retries was 2 and is now 0"),
        ("--url-col words", "plan.url_column was 'url' and is now 'words'"),
        ("--text-score-min 0.5", "annotate.text_score_min was None and is now 0.5"),
    ],
)
def test_a_folder_of_another_configuration_is_one_line_and_stays_as_it_was(
    options: str,
    setting: str,
    good_list: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS]) == 0
    before = files_below(out)
    capsys.readouterr()
    typed = ["run", str(good_list), "--out", str(out), *NO_DETECTORS, *options.split()]
    assert main(typed) == EXIT_USAGE
    assert setting in one_line(capsys)
    assert files_below(out) == before


def test_a_folder_of_another_list_is_one_line_and_stays_as_it_was(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS]) == 0
    before = files_below(out)
    capsys.readouterr()
    good_list.write_text("url\nhttp://a.example/3.jpg\n")
    assert main(["run", str(good_list), "--out", str(out), *NO_DETECTORS]) == EXIT_USAGE
    assert "source.sha256 was '" in one_line(capsys)
    assert files_below(out) == before


def test_planning_twice_writes_once(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["num_rows"], first["num_shards"]) == (2, 1)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(["plan", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_a_lost_plan_is_made_again_from_its_list(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS]) == 0
    layout = DatasetLayout(out)
    plan = layout.plan("000000").read_bytes()
    layout.plan("000000").unlink()
    layout.receipt("plan", "000000").unlink()
    assert main(["plan", str(out)]) == 0
    assert layout.plan("000000").read_bytes() == plan
    capsys.readouterr()


def test_planning_without_a_list_takes_no_settings(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS]) == 0
    capsys.readouterr()
    assert main(["plan", str(out), "--shard-size", "5"]) == EXIT_USAGE
    assert "add --urls" in one_line(capsys)


def test_annotate_before_fetch_is_one_line(
    good_list: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dataset"
    assert main(["plan", str(out), "--urls", str(good_list), *NO_DETECTORS]) == 0
    capsys.readouterr()
    assert main(["annotate", str(out)]) == EXIT_USAGE
    assert "no shard is fetched; run `insight-curate fetch" in one_line(capsys)
    assert not (out / "receipts" / "annotate").exists()


def test_annotate_leaves_shards_that_are_not_fetched_alone(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    curated.receipt("fetch", "000000").unlink()
    assert main(["annotate", str(curated.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    none = {"requeued": 0, "retried": 0, "set_aside": 0}
    assert found["stages"] == {"annotate": {"done": 0, "skipped": 1, **none}}
    assert found["status"]["stages"]["fetch"]["shards_left"] == 1


@pytest.mark.parametrize("command", ["plan", "fetch", "annotate", "status", "verify", "report"])
def test_a_folder_that_is_no_dataset_is_one_line_and_exit_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    options = ["--out", str(page)] if command == "report" else []
    assert main([command, str(tmp_path), *options]) == EXIT_USAGE
    assert "is not a planned dataset" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_a_newer_major_version_is_one_line_and_exit_2(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(curated.config.read_text())
    write_json(curated.config, {**values, "schema_version": "2.0"})
    before = files_below(curated.root)
    for command in ("status", "verify", "annotate"):
        assert main([command, str(curated.root)]) == EXIT_USAGE
        assert "version 2.0" in one_line(capsys)
    assert files_below(curated.root) == before


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a planned dataset"):
        main(["status", str(tmp_path), "--debug"])


def test_an_output_path_that_cannot_be_written_is_one_line(
    curated: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    page = tmp_path / "file" / "r.html"
    assert main(["report", str(curated.root), "--out", str(page)]) == EXIT_USAGE
    assert "file" in one_line(capsys)


def test_an_interrupt_is_one_line_and_exit_130(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(command: cli.Command) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("curation.commands.execute", interrupted)
    assert main(["status", str(tmp_path)]) == 130
    assert "the same command continues" in one_line(capsys)


def test_status_prints_text_on_stderr_and_json_on_stdout(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(curated.root), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["rows_by_status"] == {"ok": 3, "failed": 2, "filtered": 1}
    assert "6 rows in 2 shards" in err
    assert main(["status", str(curated.root)]) == 0
    assert capsys.readouterr().out == ""


def test_verify_exits_0_when_clean_and_1_with_a_list_when_not(
    curated: DatasetLayout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(curated.root)]) == 0
    assert "clean; checked 2 shards" in capsys.readouterr().err
    curated.images("000000").write_bytes(b"")
    assert main(["verify", str(curated.root), "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert not found["is_clean"]
    assert {"shard", "row", "column", "rule", "found"} == set(found["findings"][0])
    assert "shard 000000, images/000000.tar: 0 bytes" in err


def test_report_writes_the_page_and_says_so(
    curated: DatasetLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "deep" / "r.html"
    assert main(["report", str(curated.root), "--out", str(page), "--images", "1", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written == {
        "path": str(page),
        "num_bytes": page.stat().st_size,
        "rows": 6,
        "num_images": 1,
    }


def test_detectors_lists_names_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detectors", "--json"]) == 0
    out, err = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)["detectors"]}
    assert rows["ppocr_v6_small"]["is_default"]
    assert rows["retinaface_mnet025"]["weights_licence"] == "MIT"
    assert "text ppocr_v6_small (default)" in err
