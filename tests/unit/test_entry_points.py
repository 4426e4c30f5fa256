import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["curation", "training"])
def test_without_its_extra_a_command_says_so_in_one_line(package):
    # A finder that knows no tyro stands for an installation without the extra.
    code = (
        "import sys, runpy\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tyro':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"runpy.run_module({package!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tyro is not installed; run pip install" in done.stderr


@pytest.mark.parametrize("package", ["curation", "training"])
def test_help_works_as_a_module(package):
    words = [sys.executable, "-m", package, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "usage: insight-" in done.stdout
