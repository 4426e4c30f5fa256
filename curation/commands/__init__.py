"""What the commands of `insight-curate` do: from options to the work, and from results to text.

build.py     run, plan, fetch, annotate
inspect.py   status, verify, report, detectors
configs.py   from typed options to configurations
output.py    text on stderr, JSON on stdout
"""

from __future__ import annotations

from curation import cli
from curation.commands import build, inspect


def execute(command: cli.Command) -> int:
    """Do what was typed; returns the exit code.

    Raises:
        InsightTokError: one line for the person who typed it.
    """
    match command:
        case cli.Run():
            return build.run(command)
        case cli.Plan():
            return build.plan(command)
        case cli.Fetch():
            return build.stages(command, ["fetch"])
        case cli.Annotate():
            return build.stages(command, ["annotate"])
        case cli.Status():
            return inspect.show_status(command)
        case cli.Verify():
            return inspect.verify(command)
        case cli.Report():
            return inspect.report(command)
        case cli.Detectors():
            return inspect.detectors(command)
