"""Commands that look at a dataset or a machine: status, verify, report, doctor, detectors."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict

from tqdm import tqdm

from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import RemotePath, location
from curation import cli
from curation.annotate.detectors import DetectorRow, list_detectors
from curation.commands.output import EXIT_DONE, EXIT_OFF, print_json, say
from curation.status import describe, status

MAX_FINDINGS_SHOWN = 50


def show_status(command: cli.Status) -> int:
    """`insight-curate status`."""
    found = status(DatasetLayout(location(command.root), command.annotation_set))
    say(describe(found))
    print_json(command.output, found.to_json())
    return EXIT_OFF if found.set_aside else EXIT_DONE


def verify(command: cli.Verify) -> int:
    """`insight-curate verify`."""
    from curation.verify import verify as verification

    layout = DatasetLayout(location(command.root), command.annotation_set)
    with tqdm(unit=" shards", desc="verify", disable=not sys.stderr.isatty()) as bar:

        def advance(_: str, num_shards: int) -> None:
            bar.total = num_shards
            bar.update()

        result = verification.verify(layout, advance)
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
    from curation.report.integrity import IntegrityConfig
    from curation.report.report import ReportConfig, write_report

    evidence = IntegrityConfig(
        phash_column=command.phash_col,
        width_column=command.width_col,
        height_column=command.height_col,
    )
    config = ReportConfig(num_images=command.images, seed=command.seed, integrity=evidence)
    layout = DatasetLayout(location(command.root), command.annotation_set)
    written = write_report(layout, command.out, config)
    say(
        f"{written.path}: {written.rows:,} rows, {written.num_images} images shown, "
        f"{written.num_bytes / 2**20:.1f} MiB"
    )
    print_json(command.output, asdict(written))
    return EXIT_DONE


def doctor(command: cli.Doctor) -> int:
    """`insight-curate doctor`."""
    from curation.annotate.protocols import Provider
    from curation.doctor.detectors import check_detector
    from curation.doctor.doctor import Verdict, check_machine
    from curation.doctor.network import check_resolver, check_store, hosts_of

    layout = DatasetLayout(location(command.root))
    root = layout.root
    local = None if isinstance(root, RemotePath) else root
    checks = check_machine(
        local, fetch_threads=command.fetch_threads, fetch_workers=command.fetch_workers
    )
    if isinstance(root, RemotePath):
        checks.append(check_store(root))
    hosts = [host for group in command.host for host in group] or hosts_of(layout)
    checks.append(check_resolver(hosts or ["localhost"], command.fetch_threads))
    provider = Provider(command.provider)
    checks += check_detector("text", command.text_detector, provider)
    checks += check_detector("face", command.face_detector, provider)
    for check in checks:
        say(str(check))
    counts = Counter(check.verdict for check in checks)
    say(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))
    print_json(command.output, {"checks": [asdict(check) for check in checks]})
    return EXIT_OFF if counts[Verdict.FAIL] else EXIT_DONE


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
