"""Commands that build a dataset: run, plan, fetch, annotate."""

from __future__ import annotations

from collections.abc import Sequence

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from curation import cli
from curation.commands.configs import absolute_path, curate_config, machine_config
from curation.commands.output import EXIT_DONE, EXIT_OFF, print_json, say
from curation.config import DatasetConfig, require_config
from curation.machine import MachineConfig, check_cluster
from curation.options import DatasetOptions, OutputOptions, WorkerOptions
from curation.run import (
    RunSummary,
    existing_dataset,
    plan_dataset,
    planned_rows,
    run_stages,
)
from curation.runtime.progress import Progress, duration
from curation.status import describe, status


def run(command: cli.Run) -> int:
    """`insight-curate run`."""
    machine = machine_config(command.runner)
    check_cluster(machine)
    layout = DatasetLayout(command.out)
    config = plan_dataset(
        command.urls,
        layout,
        curate_config(command.dataset, command.worker),
        must_exist=command.resume,
    )
    return _run_stages(layout, config, ["fetch", "annotate"], machine, command.output)


def plan(command: cli.Plan) -> int:
    """`insight-curate plan`."""
    layout = DatasetLayout(command.root)
    if command.urls is not None:
        source, curate = command.urls, curate_config(command.dataset, command.worker)
    else:
        _check_untouched(command)
        known = require_config(layout)
        source, curate = known.source.path, known.curate
    config = plan_dataset(source, layout, curate)
    say(f"{layout.root}: {config.num_rows:,} rows planned in {config.num_shards:,} shards")
    print_json(
        command.output,
        {
            "root": str(layout.root),
            "num_shards": config.num_shards,
            "num_rows": config.num_rows,
            "config_sha256": config.sha256,
        },
    )
    return EXIT_DONE


def stages(command: cli.Fetch | cli.Annotate, names: Sequence[str]) -> int:
    """`insight-curate fetch` and `insight-curate annotate`."""
    machine = machine_config(command.runner)
    check_cluster(machine)
    layout = DatasetLayout(command.root)
    given = command.worker
    config = existing_dataset(
        layout,
        {
            "threads": given.threads,
            "fetch_threads": given.fetch_threads,
            "text_weights": absolute_path(given.text_weights),
            "face_weights": absolute_path(given.face_weights),
        },
    )
    return _run_stages(layout, config, names, machine, command.output)


def _check_untouched(command: cli.Plan) -> None:
    if command.dataset != DatasetOptions() or command.worker != WorkerOptions():
        raise UsageError(
            f"plan {command.root} without --urls takes list and settings from its config.json; "
            "leave other options away, or add --urls"
        )


def _run_stages(
    layout: DatasetLayout,
    config: DatasetConfig,
    names: Sequence[str],
    machine: MachineConfig,
    output: OutputOptions,
) -> int:
    with Progress(names, planned_rows(layout)) as progress:
        summary = run_stages(layout, config, names, machine, progress.update)
    found = status(layout)
    say(_describe_run(summary))
    say(describe(found))
    print_json(output, {**summary.to_json(), "status": found.to_json()})
    return EXIT_OFF if summary.num_set_aside else EXIT_DONE


def _describe_run(summary: RunSummary) -> str:
    parts = [
        f"{name} {tally.done:,} shards done, {tally.skipped:,} were done before"
        + (f", {tally.set_aside:,} set aside" if tally.set_aside else "")
        for name, tally in summary.stages.items()
    ]
    return f"{'; '.join(parts)}; {duration(summary.elapsed_s)}"
