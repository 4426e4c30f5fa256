"""Commands that build a dataset: run, plan, fetch, annotate, retry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout, base_shard
from annotations_schema.storage import location
from curation import cli
from curation.annotation_set import begin_annotation_set
from curation.commands.configs import (
    absolute_path,
    annotation_settings,
    curate_config,
    machine_config,
)
from curation.commands.output import EXIT_DONE, EXIT_OFF, print_json, say
from curation.config import DatasetConfig, require_config
from curation.machine import MachineConfig, check_cluster
from curation.options import DatasetOptions, OutputOptions, WorkerOptions
from curation.passes.retry import RetryPlan, outcomes, plan_retry, retry_codes
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
    layout = DatasetLayout(location(command.out))
    config = plan_dataset(
        location(command.urls),
        layout,
        curate_config(command.dataset, command.worker),
        must_exist=command.resume,
    )
    return _run_stages(layout, config, ["fetch", "annotate"], machine, command.output)


def plan(command: cli.Plan) -> int:
    """`insight-curate plan`."""
    layout = DatasetLayout(location(command.root))
    if command.urls is not None:
        source, curate = location(command.urls), curate_config(command.dataset, command.worker)
    else:
        _check_untouched(command)
        known = require_config(layout)
        source, curate = location(known.source.path), known.curate
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


def fetch(command: cli.Fetch) -> int:
    """`insight-curate fetch`."""
    machine = machine_config(command.runner)
    check_cluster(machine)
    layout = DatasetLayout(location(command.root))
    config = existing_dataset(layout, _machine_settings(command.worker))
    return _run_stages(layout, config, ["fetch"], machine, command.output)


def annotate(command: cli.Annotate) -> int:
    """`insight-curate annotate`."""
    machine = machine_config(command.runner)
    check_cluster(machine)
    given, worker = command.annotation, _machine_settings(command.worker)
    layout = DatasetLayout(location(command.root), given.annotation_set)
    begin_annotation_set(layout, annotation_settings(given, command.worker))
    config = existing_dataset(layout, worker)
    return _run_stages(layout, config, ["annotate"], machine, command.output)


def retry(command: cli.Retry) -> int:
    """`insight-curate retry`."""
    codes = retry_codes(command.codes)
    machine = machine_config(command.runner)
    check_cluster(machine)
    layout = DatasetLayout(location(command.root))
    config = existing_dataset(layout, _machine_settings(command.worker))
    planned = plan_retry(layout, config, codes)
    say(_describe_retry(planned, command.codes))
    shards = sorted({base_shard(name) for name in planned.passes})
    names = ["fetch", "annotate"] if layout.manifests() else ["fetch"]
    rows = {shard: count for shard, count in planned_rows(config).items() if shard in shards}
    with Progress(names, rows) as progress:
        summary = run_stages(layout, config, names, machine, progress.update, shards=shards)
    became = outcomes(layout, planned.passes)
    say("became: " + (", ".join(f"{n} {count:,}" for n, count in became.items()) or "nothing"))
    print_json(
        command.output,
        {
            **summary.to_json(),
            "codes": list(planned.codes),
            "passes": planned.passes,
            "rows": planned.rows,
            "became": became,
        },
    )
    return EXIT_OFF if summary.num_set_aside else EXIT_DONE


def _describe_retry(planned: RetryPlan, typed: str) -> str:
    where = f"{planned.rows:,} rows in {len(planned.passes):,} shards are fetched again"
    if planned.is_continued:
        return (
            f"{where}: an earlier run or retry had them planned; "
            "once it is done, retry again for further codes"
        )
    return where if planned.passes else f"no row has one of the codes {typed}"


def _machine_settings(given: WorkerOptions) -> dict[str, Any]:
    return {
        "threads": given.threads,
        "batch_size": given.batch_size,
        "fetch_threads": given.fetch_threads,
        "text_weights": absolute_path(given.text_weights),
        "face_weights": absolute_path(given.face_weights),
    }


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
    with Progress(names, planned_rows(config)) as progress:
        summary = run_stages(layout, config, names, machine, progress.update)
    found = status(layout)
    say(_describe_run(summary))
    say(describe(found))
    print_json(output, {**summary.to_json(), "status": found.to_json()})
    return EXIT_OFF if summary.num_set_aside else EXIT_DONE


def _describe_run(summary: RunSummary) -> str:
    parts = [
        f"{name} {tally.done:,} shards done, {tally.skipped:,} were done before"
        + (f", {tally.requeued:,} further passes" if tally.requeued else "")
        + (f", {tally.set_aside:,} set aside" if tally.set_aside else "")
        for name, tally in summary.stages.items()
    ]
    return f"{'; '.join(parts)}; {duration(summary.elapsed_s)}"
