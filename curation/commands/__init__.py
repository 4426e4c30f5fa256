"""What the commands of `insight-curate` do: from options to the work, and from results to text.

build.py     run, plan, fetch, annotate, retry
publish.py   select, tombstone
render.py    render-text
inspect.py   status, verify, report, doctor, detectors
configs.py   from typed options to configurations
output.py    text on stderr, JSON on stdout
"""

from __future__ import annotations

from curation import cli
from curation.commands import build, inspect, publish, render


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
            return build.fetch(command)
        case cli.Annotate():
            return build.annotate(command)
        case cli.Retry():
            return build.retry(command)
        case cli.Status():
            return inspect.show_status(command)
        case cli.Verify():
            return inspect.verify(command)
        case cli.Report():
            return inspect.report(command)
        case cli.Select():
            return publish.select(command)
        case cli.Tombstone():
            return publish.tombstone(command)
        case cli.RenderText():
            return render.render_text(command)
        case cli.Doctor():
            return inspect.doctor(command)
        case cli.Detectors():
            return inspect.detectors(command)
