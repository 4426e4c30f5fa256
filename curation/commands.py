"""What the commands of `insight-curate` do: from options to the work, and from results to text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from annotations_schema.errors import UsageError
from annotations_schema.images import DecodeLimits
from annotations_schema.layout import DatasetLayout
from curation import cli
from curation.annotate.config import AnnotateConfig
from curation.annotate.detectors import DetectorRow, list_detectors
from curation.annotate.protocols import Provider
from curation.config import CurateConfig, DatasetConfig, require_config
from curation.fetch.config import FetchConfig
from curation.machine import MachineConfig, Runner, check_cluster
from curation.plan import PlanConfig
from curation.run import (
    RunSummary,
    existing_dataset,
    plan_dataset,
    planned_rows,
    run_stages,
)
from curation.runtime.progress import Progress, duration
from curation.status import describe, status

EXIT_DONE = 0
EXIT_OFF = 1
MAX_FINDINGS_SHOWN = 50

ConfigT = TypeVar("ConfigT")


def execute(command: cli.Command) -> int:
    """Do what was typed; returns the exit code.

    Raises:
        InsightTokError: one line for the person who typed it.
    """
    match command:
        case cli.Run():
            return run(command)
        case cli.Plan():
            return plan(command)
        case cli.Fetch():
            return stages(command, ["fetch"])
        case cli.Annotate():
            return stages(command, ["annotate"])
        case cli.Status():
            return show_status(command)
        case cli.Verify():
            return verify(command)
        case cli.Report():
            return report(command)
        case cli.Detectors():
            return detectors(command)


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
    _say(f"{layout.root}: {config.num_rows:,} rows planned in {config.num_shards:,} shards")
    _print_json(
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
            "text_weights": _absolute(given.text_weights),
            "face_weights": _absolute(given.face_weights),
        },
    )
    return _run_stages(layout, config, names, machine, command.output)


def show_status(command: cli.Status) -> int:
    """`insight-curate status`."""
    found = status(DatasetLayout(command.root))
    _say(describe(found))
    _print_json(command.output, found.to_json())
    return EXIT_OFF if found.set_aside else EXIT_DONE


def verify(command: cli.Verify) -> int:
    """`insight-curate verify`."""
    from curation import verify as verification

    layout = DatasetLayout(command.root)
    num_shards = require_config(layout).num_shards
    is_quiet = not sys.stderr.isatty()
    with tqdm(total=num_shards, unit=" shards", desc="verify", disable=is_quiet) as bar:
        result = verification.verify(layout, lambda _: bar.update())
    for finding in result.findings[:MAX_FINDINGS_SHOWN]:
        _say(str(finding))
    if len(result.findings) > MAX_FINDINGS_SHOWN:
        _say(f"... and {len(result.findings) - MAX_FINDINGS_SHOWN:,} more (--json lists all)")
    checked = ", ".join(f"{count:,} {name}" for name, count in result.checked.items())
    verdict = f"{len(result.findings):,} problems" if result.findings else "clean"
    _say(f"{layout.root}: {verdict}; checked {checked}")
    _print_json(command.output, result.to_json())
    return EXIT_OFF if result.findings else EXIT_DONE


def report(command: cli.Report) -> int:
    """`insight-curate report`."""
    from curation.report import ReportConfig, write_report

    config = ReportConfig(num_images=command.images, seed=command.seed)
    written = write_report(DatasetLayout(command.root), command.out, config)
    _say(
        f"{written.path}: {written.rows:,} rows, {written.num_images} images shown, "
        f"{written.num_bytes / 2**20:.1f} MiB"
    )
    _print_json(command.output, asdict(written))
    return EXIT_DONE


def detectors(command: cli.Detectors) -> int:
    """`insight-curate detectors`."""
    rows = list_detectors()
    for row in rows:
        _say(_describe_detector(row))
    _print_json(command.output, {"detectors": [row._asdict() for row in rows]})
    return EXIT_DONE


def curate_config(dataset: cli.DatasetOptions, worker: cli.WorkerOptions) -> CurateConfig:
    """The configuration that was typed.

    Raises:
        UsageError: a setting is out of range, or names an unknown detector.
    """
    plan_config = _checked(
        PlanConfig,
        url_column=dataset.url_col,
        caption_column=dataset.caption_col,
        sha256_column=dataset.sha256_col,
        license_column=dataset.license_col,
        shard_size=dataset.shard_size,
    )
    fetch = _checked(
        FetchConfig,
        deadline_s=dataset.deadline_s,
        retries=dataset.retries,
        max_bytes=dataset.max_bytes,
        hash_policy=dataset.hash_policy,
        allow_private_network=dataset.allow_private_network,
        limits=DecodeLimits(max_pixels=dataset.max_pixels),
        **_given(threads=worker.fetch_threads),
    )
    annotate = _checked(
        AnnotateConfig,
        text_detector=dataset.text_detector,
        face_detector=dataset.face_detector,
        text_score_min=dataset.text_score_min,
        face_score_min=dataset.face_score_min,
        provider=Provider(dataset.provider),
        max_pixels=dataset.max_pixels,
        text_weights=_absolute(worker.text_weights),
        face_weights=_absolute(worker.face_weights),
        **_given(threads=worker.threads),
    )
    return CurateConfig(plan=plan_config, fetch=fetch, annotate=annotate)


def machine_config(options: cli.RunnerOptions) -> MachineConfig:
    """Where to run, as it was typed.

    Raises:
        UsageError: a number is out of range, or an address is given to the local runner.
    """
    return MachineConfig(
        runner=Runner(options.runner),
        ray_address=options.ray_address,
        workers=options.workers,
        fetch_workers=options.fetch_workers,
    )


def _check_untouched(command: cli.Plan) -> None:
    if command.dataset != cli.DatasetOptions() or command.worker != cli.WorkerOptions():
        raise UsageError(
            f"plan {command.root} without --urls takes list and settings from its config.json; "
            "leave other options away, or add --urls"
        )


def _run_stages(
    layout: DatasetLayout,
    config: DatasetConfig,
    names: Sequence[str],
    machine: MachineConfig,
    output: cli.OutputOptions,
) -> int:
    with Progress(names, planned_rows(layout)) as progress:
        summary = run_stages(layout, config, names, machine, progress.update)
    found = status(layout)
    _say(_describe_run(summary))
    _say(describe(found))
    _print_json(output, {**summary.to_json(), "status": found.to_json()})
    return EXIT_OFF if summary.num_set_aside else EXIT_DONE


def _describe_run(summary: RunSummary) -> str:
    parts = [
        f"{name} {tally.done:,} shards done, {tally.skipped:,} were done before"
        + (f", {tally.set_aside:,} set aside" if tally.set_aside else "")
        for name, tally in summary.stages.items()
    ]
    return f"{'; '.join(parts)}; {duration(summary.elapsed_s)}"


def _describe_detector(row: DetectorRow) -> str:
    version = row.library_version or "not installed"
    default = " (default)" if row.is_default else ""
    return (
        f"{row.kind} {row.name}{default}: {row.description}\n"
        f"    {row.library} {version}; weights {row.weights}, {row.weights_licence}\n"
        f"    {row.status}"
    )


def _checked(make: Callable[..., ConfigT], **settings: Any) -> ConfigT:
    """A configuration; what it objects to becomes the typist's one line."""
    try:
        return make(**settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _absolute(path: Path | None) -> str | None:
    """Workers may run in another folder."""
    return None if path is None else str(path.absolute())


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _print_json(output: cli.OutputOptions, value: dict[str, Any]) -> None:
    if output.json:
        sys.stdout.write(json.dumps(value) + "\n")
