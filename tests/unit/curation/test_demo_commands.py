from __future__ import annotations

import os
import stat
import sysconfig
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from curation.demo.commands import StepFailedError, console_script, run_step


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment's folder of console scripts; shell scripts can be put into it."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def _script(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_console_scripts_of_this_environment_are_found() -> None:
    for name in ("insight-curate", "insight-train"):
        assert os.access(console_script(name), os.X_OK)


def test_a_step_says_what_was_typed_and_returns_stdout(
    scripts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _script(scripts, "say", 'echo "progress" >&2; printf \'{"path": "%s"}\' "$2"')

    step = run_step("say", "--out", Path("a folder"))

    assert step.command == "say --out 'a folder'"
    assert step.json() == {"path": "a folder"}
    assert step.elapsed_s > 0
    captured = capfd.readouterr()
    assert "$ say --out 'a folder'\n" in captured.err
    assert "progress\n" in captured.err
    assert captured.out == ""


def test_a_failing_step_stops_with_command_and_exit_code(
    scripts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _script(scripts, "fail", "echo half an answer; exit 3")

    with pytest.raises(StepFailedError, match="exit code 3 from: fail now") as caught:
        run_step("fail", "now")

    assert (caught.value.command, caught.value.exit_code) == ("fail now", 3)
    assert "half an answer" in capfd.readouterr().err


@pytest.mark.parametrize("output", ["", "not json", "[1, 2]"])
def test_an_answer_that_is_no_json_object_is_a_failed_step(scripts: Path, output: str) -> None:
    _script(scripts, "odd", f"printf '%s' '{output}'")

    with pytest.raises(StepFailedError, match="odd"):
        run_step("odd").json()


def test_a_missing_script_is_named_with_its_mend(scripts: Path) -> None:
    with pytest.raises(UsageError, match="absent: must be installed; run `pip install"):
        run_step("absent")
