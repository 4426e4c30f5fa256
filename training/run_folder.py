"""The folder of one training run: what lies where, and whose run it is.

RUN/config.json         the resolved configuration
RUN/run.json            its sha256, the manifests' sha256, the code's version
RUN/metrics.jsonl       one line per `log.metrics_every` steps
RUN/events.jsonl        phases, checkpoints, images that could not be read
RUN/checkpoint.pt       the latest state; a resume goes on from here
RUN/phase_NAME.pt       the state at the end of each phase
RUN/previews/           originals and reconstructions
RUN/tensorboard/        the same numbers and pictures for TensorBoard
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import training
from annotations_schema.errors import UsageError
from annotations_schema.layout import config_sha256, sha256_file, write_json
from training.config import TrainConfig
from training.machine import MachineConfig
from training.typed_config import to_plain


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, JSON."""
        return self.root / "config.json"

    @property
    def identity(self) -> Path:
        """What a resume compares, JSON."""
        return self.root / "run.json"

    @property
    def metrics(self) -> Path:
        """Metrics, JSON lines."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Happenings, JSON lines."""
        return self.root / "events.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The latest state."""
        return self.root / "checkpoint.pt"

    def phase_checkpoint(self, phase: str) -> Path:
        """The state at the end of a phase."""
        return self.root / f"phase_{phase}.pt"

    def preview(self, step: int) -> Path:
        """The picture drawn after a step."""
        return self.root / "previews" / f"step_{step:08d}.png"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"


def identity_of(
    config: TrainConfig, manifests: Mapping[str, str], nets: Mapping[str, str]
) -> dict[str, Any]:
    """What a run is: hashes of all that goes into it, version and sha256 of the code.

    Args:
        config: the resolved configuration; its machine settings are left out, and of a checkpoint
            to start from the content counts, not the place.
        manifests: sha256 of each manifest file, by path.
        nets: sha256 of the weights of each frozen network, by name.
    """
    start = {} if config.init is None else {"init_sha256": sha256_file(config.init)}
    return {
        "config_sha256": config_sha256(replace(config, machine=MachineConfig(), init=None)),
        **start,
        "manifests": dict(manifests),
        "nets": dict(nets),
        "version": importlib.metadata.version("open-insighttok"),
        "code_sha256": _code_sha256(),
    }


def check_folder(folder: RunFolder, identity: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether the folder holds this run already; one that holds another is refused.

    Nothing is written.

    Code may have changed since; configuration and data may not, or steps and order would mean
    something else.

    Raises:
        UsageError: the folder holds a run and `resume` is False, or holds a different one.
    """
    if folder.root.exists() and not folder.root.is_dir():
        raise UsageError(f"{folder.root} is a file; name a folder with --out")
    if not folder.identity.exists():
        if folder.config.exists():
            raise UsageError(
                f"{folder.root} holds a {folder.config.name} of something else; name another "
                "folder with --out"
            )
        return False
    if not resume:
        raise UsageError(
            f"{folder.root} holds a run already; add --resume to go on with it, or name another "
            "folder with --out"
        )
    known = _read_identity(folder)
    if known.get("config_sha256") != identity["config_sha256"]:
        raise UsageError(
            f"{folder.root} belongs to another configuration (see {folder.config}); repeat its "
            "--recipe and --set values, or name another folder with --out"
        )
    if sorted(known.get("manifests", {}).values()) != sorted(identity["manifests"].values()):
        raise UsageError(
            f"{folder.root} was trained on other manifests (see {folder.identity}); repeat its "
            "--data, or name another folder with --out"
        )
    if known.get("init_sha256") != identity.get("init_sha256"):
        raise UsageError(
            f"{folder.root} started from another checkpoint (see {folder.identity}); repeat its "
            "--init, or name another folder with --out"
        )
    if known.get("nets") != identity["nets"]:
        raise UsageError(
            f"{folder.root} was trained through other frozen networks (see {folder.identity}); "
            "give the same weights files, or name another folder with --out"
        )
    return True


def claim_folder(folder: RunFolder, config: TrainConfig, identity: Mapping[str, Any]) -> None:
    """Write identity and configuration, unless the folder has them.

    Files that a killed run left half-written go, a checkpoint of gigabytes among them.
    """
    for leftover in [*folder.root.glob(".*.tmp"), *folder.preview(0).parent.glob(".*.tmp")]:
        leftover.unlink()
    if not folder.identity.exists():
        write_json(folder.identity, identity)
    if not folder.config.exists():
        write_json(folder.config, to_plain(config))


def _read_identity(folder: RunFolder) -> dict[str, Any]:
    try:
        known = json.loads(folder.identity.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder.root} is no run folder ({folder.identity.name} cannot be read: {error}); "
            "name another folder with --out"
        ) from error
    return known if isinstance(known, dict) else {}


def _code_sha256() -> str:
    """sha256 over the sources of this package, which tell versions of a checkout apart."""
    root = Path(training.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
