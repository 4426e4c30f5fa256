"""Runs the command line tools as a person would, shows what was typed and how long it took."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from annotations_schema.errors import InsightTokError, UsageError


class StepFailedError(InsightTokError):
    """A command that ended with another exit code than 0."""

    def __init__(self, command: str, exit_code: int) -> None:
        self.command, self.exit_code = command, exit_code
        super().__init__(f"exit code {exit_code} from: {command}")


class Step(NamedTuple):
    """A command that has run."""

    command: str
    """As it would be typed in a shell."""
    elapsed_s: float
    output: str
    """Everything it wrote to stdout."""

    def json(self) -> Mapping[str, Any]:
        """Returns stdout as the JSON object it is.

        Raises:
            StepFailedError: the command promised JSON and wrote something else.
        """
        try:
            value = json.loads(self.output)
        except json.JSONDecodeError as error:
            raise StepFailedError(f"{self.command} (stdout is not JSON)", 0) from error
        if not isinstance(value, dict):
            raise StepFailedError(f"{self.command} (stdout is no JSON object)", 0)
        return value


def console_script(name: str) -> Path:
    """Returns the console script of this environment.

    Raises:
        UsageError: it is not installed beside this Python.
    """
    script = Path(sysconfig.get_path("scripts")) / name
    if not script.is_file():
        raise UsageError(f"{script}: must be installed; run `pip install -e .` in this environment")
    return script


def run_step(*words: str | Path) -> Step:
    """Runs a console script to its end; its stderr passes through, its stdout is returned.

    Args:
        words: name of the script, then its arguments.

    Raises:
        StepFailedError: it ended with an exit code other than 0.
        UsageError: there is no such script.
    """
    name, *arguments = (str(word) for word in words)
    command = shlex.join([name, *arguments])
    print(f"\n$ {command}", file=sys.stderr, flush=True)
    started_s = time.monotonic()
    done = subprocess.run(
        [str(console_script(name)), *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    elapsed_s = time.monotonic() - started_s
    if done.returncode != 0:
        print(done.stdout, end="", file=sys.stderr)
        raise StepFailedError(command, done.returncode)
    print(f"  done in {elapsed_s:.1f} s", file=sys.stderr, flush=True)
    return Step(command, elapsed_s, done.stdout)
