"""Commands that look at a dataset: status, verify, report, detectors."""

from __future__ import annotations

import sys
from dataclasses import asdict

from tqdm import tqdm

from annotations_schema.layout import DatasetLayout
from curation import cli
from curation.annotate.detectors import DetectorRow, list_detectors
from curation.commands.output import EXIT_DONE, EXIT_OFF, print_json, say
from curation.config import require_config
from curation.status import describe, status

MAX_FINDINGS_SHOWN = 50


def show_status(command: cli.Status) -> int:
    """`insight-curate status`."""
    found = status(DatasetLayout(command.root))
    say(describe(found))
    print_json(command.output, found.to_json())
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
        say(str(finding))
    if len(result.findings) > MAX_FINDINGS_SHOWN:
        say(f"... and {len(result.findings) - MAX_FINDINGS_SHOWN:,} more (--json lists all)")
    checked = ", ".join(f"{count:,} {name}" for name, count in result.checked.items())
    verdict = f"{len(result.findings):,} problems" if result.findings else "clean"
    say(f"{layout.root}: {verdict}; checked {checked}")
    print_json(command.output, result.to_json())
    return EXIT_OFF if result.findings else EXIT_DONE


def report(command: cli.Report) -> int:
    """`insight-curate report`."""
    from curation.report import ReportConfig, write_report

    config = ReportConfig(num_images=command.images, seed=command.seed)
    written = write_report(DatasetLayout(command.root), command.out, config)
    say(
        f"{written.path}: {written.rows:,} rows, {written.num_images} images shown, "
        f"{written.num_bytes / 2**20:.1f} MiB"
    )
    print_json(command.output, asdict(written))
    return EXIT_DONE


def detectors(command: cli.Detectors) -> int:
    """`insight-curate detectors`."""
    rows = list_detectors()
    for row in rows:
        say(_describe_detector(row))
    print_json(command.output, {"detectors": [row._asdict() for row in rows]})
    return EXIT_DONE


def _describe_detector(row: DetectorRow) -> str:
    version = row.library_version or "not installed"
    default = " (default)" if row.is_default else ""
    return (
        f"{row.kind} {row.name}{default}: {row.description}\n"
        f"    {row.library} {version}; weights {row.weights}, {row.weights_licence}\n"
        f"    {row.status}"
    )
