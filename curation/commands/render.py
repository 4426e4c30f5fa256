"""`insight-curate render-text`."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from annotations_schema.errors import UsageError
from annotations_schema.layout import DatasetLayout
from annotations_schema.storage import location
from curation import cli
from curation.commands.output import EXIT_DONE, print_json, say
from curation.demo.packaged import font_files, packaged_file
from curation.demo.photos import TRAIN_PHOTOS
from curation.demo.words import WORDS
from curation.render_text.dataset import RenderConfig, load_sources, render_dataset
from curation.render_text.page import PageConfig


def render_text(command: cli.RenderText) -> int:
    """Render, or go on with it."""
    config = RenderConfig(
        images=command.images,
        seed=command.seed,
        page=PageConfig(
            size_px=command.size_px,
            letter_px=command.letter_px,
            words=command.words_per_page,
            max_angle_deg=command.max_angle_deg,
            min_contrast=command.min_contrast,
        ),
        jpeg_quality=command.jpeg_quality,
        shard_size=command.shard_size,
    )
    sources = load_sources(
        WORDS if command.words is None else _words(command.words),
        command.fonts or font_files(),
        command.backgrounds or _photographs(),
    )
    if sources.unsuitable_fonts:
        say(f"{sources.unsuitable_fonts} fonts left out: they lack letters of the words")
    layout = DatasetLayout(location(command.out))
    with tqdm(desc="render", unit="shard") as bar:

        def on_shard(shard: str, done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        dataset = render_dataset(layout, sources, config, on_shard)
    say(
        f"{layout.root}: {dataset.num_rows:,} pages in {dataset.num_shards:,} shards, "
        f"{len(sources.fonts)} fonts, {len(sources.backgrounds)} backgrounds"
    )
    print_json(
        command.output,
        {
            "root": str(layout.root),
            "num_rows": dataset.num_rows,
            "num_shards": dataset.num_shards,
            "fonts": [path.name for path in sources.fonts],
            "config_sha256": dataset.sha256,
        },
    )
    return EXIT_DONE


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"words {path} cannot be read ({error}); give a UTF-8 text") from error


def _photographs() -> list[Path]:
    """Photographs of installed packages without text; faces and objects may be printed over."""
    return [packaged_file(p.package, p.path) for p in TRAIN_PHOTOS if p.kind in ("neither", "face")]
