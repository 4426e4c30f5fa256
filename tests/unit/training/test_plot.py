"""The picture of a run's curves, and what is said of lines that are none."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from annotations_schema import UsageError
from training.cli import main
from training.plot import plot_runs, read_curves, running_mean


def write_run(folder, lines):
    folder.mkdir()
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def line(step, phase="base", **values):
    return {"step": step, "phase": phase, **values}


@pytest.fixture
def run(tmp_path):
    lines = [line(10 * n, "base" if n < 4 else "regions", total=1 / n) for n in range(1, 8)]
    lines[5] |= {"text": 3.0, "total": float("nan")}
    return write_run(tmp_path / "run", lines)


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def texts_of(svg):
    """What is written in a picture: matplotlib draws letters as shapes and leaves a comment."""
    return set(re.findall(r"<!-- (.*?) -->", svg.read_text()))


def test_curves_are_read_by_step_with_the_phases_marked(run):
    curves = read_curves(run, "run")
    assert curves.steps.tolist() == [10, 20, 30, 40, 50, 60, 70]
    assert curves.phases == ((10, "base"), (30, "regions"))
    assert curves.values["total"][:2].tolist() == [1.0, 0.5]
    assert np.isnan(curves.values["text"]).tolist() == [True] * 5 + [False, True]
    assert curves.broken_lines == 0


@pytest.mark.parametrize(
    "broken",
    ["{", "[]\n", "12\n", '{"step": 5}\n', '{"step": "5", "phase": "base"}\n',
     '{"step": 5, "phase": "base", "total": "high"}\n', "\x00\n"],
)  # fmt: skip
def test_broken_lines_are_left_out_and_counted(tmp_path, broken):
    folder = write_run(tmp_path / "run", [line(1, total=1.0), line(2, total=0.5), broken])
    curves = read_curves(folder, "run")
    assert curves.steps.tolist() == [1, 2]
    assert curves.broken_lines == 1


def test_a_picture_names_its_metrics_runs_and_phases(run, tmp_path):
    other = write_run(tmp_path / "other", [line(5, total=2.0), line(6, total=1.0)])
    plot_runs([run, other], tmp_path / "curves.svg")
    assert {"total", "text", "run", "other", "base", "regions"} <= texts_of(tmp_path / "curves.svg")


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        write_run(tmp_path / parent / "run", [line(1, total=1.0)])
    drawn = plot_runs([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "c.png")
    assert [one.name for one in drawn] == [str(tmp_path / p / "run") for p in ("a", "b")]


def test_the_command_draws_a_png_and_says_what_it_drew(run, tmp_path, capsys):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8')
    out = tmp_path / "new" / "curves.png"
    assert main(["plot", str(run), "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    assert "run: 7 lines, 1 broken lines left out" in said.err
    expected = [{"run": str(run), "lines": 7, "broken_lines": 1}]
    assert json.loads(said.out) == {"out": str(out), "runs": expected}
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_several_runs_have_several_colours(run, tmp_path):
    other = write_run(tmp_path / "other", [line(5, total=2.0), line(60, total=1.0)])
    colours = [set(), set()]
    for seen, runs in zip(colours, ([run], [run, other]), strict=True):
        plot_runs(runs, tmp_path / "c.svg")
        seen.update(re.findall(r"stroke: (#[0-9a-f]{6})", (tmp_path / "c.svg").read_text()))
    assert colours[1] - colours[0] == {"#ff7f0e"}


@pytest.mark.parametrize(
    ("run_name", "out", "message"),
    [
        ("nowhere", "c.png", "holds no metrics.jsonl"),
        ("empty", "c.png", "has no line yet"),
        ("torn", "c.png", "(1 broken)"),
        ("run", "c.txt", "end it in .png, .svg, .pdf"),
        ("run", "run", "end it in"),
    ],
)
def test_misuse_is_one_line_exit_2_and_no_picture(run, tmp_path, capsys, run_name, out, message):
    write_run(tmp_path / "empty", [])
    write_run(tmp_path / "torn", ["{"])
    before = sorted(tmp_path.rglob("*"))
    assert main(["plot", str(tmp_path / run_name), "--out", str(tmp_path / out)]) == 2
    assert message in one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_loss_that_was_not_computed_is_no_point(tmp_path):
    lines = [line(n, "base", total=1.0, text=0.0) for n in (1, 2)]
    plot_runs([write_run(tmp_path / "run", lines)], tmp_path / "c.svg")
    assert "total" in texts_of(tmp_path / "c.svg")
    assert "text" not in texts_of(tmp_path / "c.svg")


def test_a_picture_that_was_there_stays_when_there_is_nothing_to_draw(tmp_path):
    (tmp_path / "c.png").write_bytes(b"old")
    with pytest.raises(UsageError):
        plot_runs([tmp_path], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == b"old"


def test_the_running_mean_looks_back():
    assert running_mean(np.array([4.0, 2.0, 6.0, 8.0]), 2).tolist() == [4.0, 3.0, 4.0, 7.0]
