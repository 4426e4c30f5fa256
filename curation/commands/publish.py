"""Commands over finished datasets that change what others read: select, tombstone."""

from __future__ import annotations

from dataclasses import asdict

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import AnyPath, location
from curation import cli
from curation.commands.output import EXIT_DONE, EXIT_OFF, print_json, say
from curation.options import OutputOptions


def select(command: cli.Select) -> int:
    """`insight-curate select`."""
    from curation.select import select as selection
    from curation.select.query import Question

    if command.check:
        return _check(selection.lock_path(location(command.out)), command.output)
    if not command.roots:
        raise UsageError("select needs folders of datasets, or --check for a subset that exists")
    question = Question(
        where=command.where,
        weight=command.weight,
        balance=command.balance,
        limit=command.limit,
        seed=command.seed,
    )
    selected = selection.select(
        [location(root) for root in command.roots],
        question,
        location(command.out),
        command.annotation_set,
    )
    counts = selected.counts
    say(
        f"{selected.path}: {counts['rows']:,} of {counts['seen']:,} rows, "
        f"{counts['text_regions']:,} text regions, {counts['faces']:,} faces"
    )
    left_out = {
        "match and have no usable image": counts["not_ok"],
        "repeat an image_id of an earlier source": counts["repeated"],
        "are beyond the limit": counts["beyond_limit"],
    }
    for why, rows in left_out.items():
        if rows:
            say(f"  {rows:,} more rows {why}: left out")
    say(f"  lock {selected.lock}")
    print_json(
        command.output,
        {"subset": str(selected.path), "lock": str(selected.lock), "counts": counts},
    )
    return EXIT_DONE


def _check(lock: AnyPath, output: OutputOptions) -> int:
    from curation.select.select import check_lock

    problems = check_lock(lock)
    for problem in problems:
        say(problem)
    verdict = f"{len(problems):,} differences" if problems else "all is as it was selected"
    say(f"{lock}: {verdict}")
    print_json(output, {"lock": str(lock), "differences": problems})
    return EXIT_OFF if problems else EXIT_DONE


def tombstone(command: cli.Tombstone) -> int:
    """`insight-curate tombstone`."""
    from curation.tombstone import tombstone as removal

    layout = DatasetLayout(location(command.root))
    if (command.ids is None) is not command.resume:
        raise UsageError("tombstone needs a file of ids, or --resume to finish an earlier removal")
    if command.ids is None:
        removed = removal.resume(layout)
    else:
        removed = removal.tombstone(
            layout, removal.read_ids(command.ids), with_copies=command.copies
        )
    for unknown in removed.unknown:
        say(f"{unknown}: no row of {layout.root}")
    if removed.copies_left:
        say(
            f"{removed.copies_left:,} other rows hold the same bytes as a removed image; "
            "add --copies to remove them too"
        )
    say(
        f"{layout.root}: {removed.rows:,} rows are tombstones now, {removed.already:,} were "
        f"before; {removed.images:,} images removed, {removed.files:,} files rewritten"
    )
    if removed.receipt is not None:
        say(f"  receipt {removed.receipt}")
    print_json(command.output, asdict(removed))
    return EXIT_OFF if removed.unknown else EXIT_DONE
