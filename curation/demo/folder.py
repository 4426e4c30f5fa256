"""The output folder of the demo: where things lie, and what may be deleted to begin again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from annotations_schema.errors import UsageError

MARKER = ".insight-demo"
MARKER_TEXT = "Made by `make demo` of Open InsightTok; the next demo here begins by emptying it.\n"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Every path the demo writes to."""

    root: Path

    @property
    def lists(self) -> Path:
        """URL lists."""
        return self.root / "lists"

    @property
    def dataset(self) -> Path:
        """The curated dataset for training."""
        return self.root / "dataset"

    @property
    def held_out(self) -> Path:
        """The curated dataset for evaluation."""
        return self.root / "held_out"

    @property
    def report(self) -> Path:
        """HTML report of the training dataset."""
        return self.root / "report.html"

    @property
    def runs(self) -> Path:
        """One folder for each training run."""
        return self.root / "runs"

    @property
    def evaluation(self) -> Path:
        """Result of the evaluation."""
        return self.root / "evaluation"

    @property
    def pictures(self) -> Path:
        """Held-out pictures as files."""
        return self.root / "pictures"

    @property
    def reconstructions(self) -> Path:
        """Reconstructions of those pictures, one folder for each tokenizer."""
        return self.root / "reconstructions"

    @property
    def comparison(self) -> Path:
        """Held-out pictures and their reconstructions side by side."""
        return self.root / "comparison.png"

    def checkpoint(self, recipe: str) -> Path:
        """The trained tokenizer of a recipe."""
        return self.runs / recipe / "checkpoint.pt"

    def metrics(self, recipe: str) -> Path:
        """The log of a training run, JSON lines."""
        return self.runs / recipe / "metrics.jsonl"

    @property
    def table(self) -> Path:
        """The final table as text."""
        return self.root / "table.txt"

    def begin(self) -> None:
        """Makes the folder, or empties it where an earlier demo made it.

        Only what a demo writes is deleted.

        Raises:
            UsageError: the path is a file, or a folder that holds something and is no demo's.
        """
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: must be a folder; choose another --out")
        marker = self.root / MARKER
        if self.root.is_dir() and any(self.root.iterdir()) and not marker.is_file():
            raise UsageError(
                f"{self.root}: holds files and was not made by a demo; choose another --out"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        marker.write_text(MARKER_TEXT)
        for folder in self._folders:
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink(missing_ok=True)
            else:
                shutil.rmtree(folder)
        for file in (self.report, self.comparison, self.table):
            file.unlink(missing_ok=True)

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (
            self.lists,
            self.dataset,
            self.held_out,
            self.runs,
            self.evaluation,
            self.pictures,
            self.reconstructions,
        )
