from __future__ import annotations

import stat
import sysconfig
from pathlib import Path

import pytest

from curation.demo.__main__ import main


def test_a_folder_of_somebody_else_is_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("keep me")

    assert main(["--out", str(tmp_path)]) == 2

    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: holds files")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_failing_step_ends_the_demo_with_its_command_and_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = tmp_path / "bin"
    scripts.mkdir()
    script = scripts / "insight-curate"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(scripts))

    assert main(["--out", str(tmp_path / "demo")]) == 1

    captured = capsys.readouterr()
    assert "The demo stops: exit code 3 from: insight-curate run" in captured.err
    assert captured.out == ""
