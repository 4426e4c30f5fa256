"""The GPU ladder from a bare checkout: torch and numpy suffice, and every rung runs in small."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_ladder.py"

_WITHOUT_OUR_LIBRARIES = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ImportError(f"{name} is not installed on the machine with the GPU")

sys.meta_path.insert(0, Absent())
script, sys.argv = sys.argv[1], [sys.argv[1], "--dry-run", "--out", sys.argv[3]]
runpy.run_path(script, run_name="__main__")
"""
ABSENT = "tyro,tqdm,onnx,onnxruntime,lpips,duckdb,skimage,torchvision,cv2,matplotlib,tensorboard"


def test_every_rung_runs_in_small_without_our_libraries(tmp_path):
    table = tmp_path / "table.md"
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_OUR_LIBRARIES, str(SCRIPT), ABSENT, str(table)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == table.read_text()
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    names = [row[1].strip() for row in rows]
    whole = [
        "step",
        "reference",
        "+ F.silu, fused attention",
        "+ lean GroupNorm-SiLU",
        "+ channels_last",
        "+ compiled regions",
        "+ fused AdamW, foreach EMA",
        "+ lean quantizer",
        "+ gradients at x_hat, no host sync",
    ]
    assert names == [*whole, "ours + text + face", "step", "reference", whole[-1]]
    assert all(float(row[2]) > 0 for row in rows if row[1].strip() != "step")
    assert "3 text and 1 face per image: " in done.stdout


def test_without_a_gpu_nothing_is_pretended(capsys, monkeypatch):
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "no GPU here" in capsys.readouterr().err


def test_what_no_time_is_left_for_is_said(capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(["--dry-run", "--minutes", "0"]) == 0
    assert capsys.readouterr().out.count("not run: no time left") == 11
