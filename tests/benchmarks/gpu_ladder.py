"""The ladder of the training step on a GPU, and the price of text and face loss there.

    python tests/benchmarks/gpu_ladder.py [--out table.md] [--minutes 8] [--dry-run]

Needs torch 2.11 or newer, numpy, pyarrow and this checkout; nothing has to be installed. Images are
random; networks have the real shapes and random weights. A rung that no time is left for, or that
does not fit into memory, stands in the table as such. `--dry-run` runs every rung in miniature, on
whatever device there is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.reference_step import (
    OBJECTIVE,
    Contestant,
    Nets,
    Rung,
    ladder,
    random_nets,
)
from training.data.batch import RegionBatch
from training.losses.objective import FrozenNets
from training.models.autoencoder import AutoencoderConfig
from training.models.discriminator import DiscriminatorConfig
from training.models.frozen.abinet import AbinetVision
from training.models.frozen.iresnet import IResNet50
from training.models.quantizer import QuantizerConfig
from training.models.tokenizer import CONFIGS, TokenizerConfig

TARGETS = """\
Targets on an H200: llamagen_72m at 256 px at least 205 images/s; insight_426m at least 45 at 256 px
and 11 at 512 px; at most 2.5 GB kept per 256 px image of insight_426m; 3 text and 1 face region per
image at most 4 % of a step of insight_426m and 15 % of llamagen_72m at 256 px; 0 syncs per step."""

_STEPS_S = 4.0
_TEXT_PER_IMAGE, _FACES_PER_IMAGE = 3, 1
_MINIATURE = TokenizerConfig(
    autoencoder=AutoencoderConfig(channels=8, num_res_blocks=1, z_channels=16, norm_groups=4),
    quantizer=QuantizerConfig(codebook_size=64, codebook_dim=16),
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One block of the table."""

    network: str
    side: int
    images: int
    is_whole_ladder: bool = False
    """Every rung, or the reference and ours alone."""
    has_regions: bool = False
    """Also ours with text and face loss."""
    warm_ups: int = 3
    """Steps before the measured ones; the first compiles."""
    most_steps: int = 10
    """Measured steps, fewer where they take longer than four seconds."""

    @property
    def title(self) -> str:
        """Network, side and batch."""
        return f"{self.network}, {self.side} px, batch {self.images}"


# In the order of their worth: what time runs out for is at the end.
SHAPES = (
    Shape(network="llamagen_72m", side=256, images=32, is_whole_ladder=True, has_regions=True),
    Shape(network="insight_426m", side=256, images=16, is_whole_ladder=True, has_regions=True),
    Shape(network="insight_426m", side=512, images=4),
    Shape(network="llamagen_72m", side=512, images=8),
    Shape(network="insight_426m", side=256, images=32),
    Shape(network="llamagen_72m", side=256, images=16),
    Shape(network="insight_426m", side=512, images=8),
    Shape(network="llamagen_72m", side=512, images=4),
)
_DRY_SHAPES = tuple(
    Shape(network="miniature", side=side, images=2, warm_ups=1, most_steps=1, **whole)
    for side, whole in (
        (32, {"is_whole_ladder": True, "has_regions": True}),
        (48, {}),
    )
)


class Measured(NamedTuple):
    """Of one rung; bytes are 0 without a GPU."""

    ms_per_image: float
    peak_gb: float
    kept_gb_per_image: float
    syncs: int


def main(arguments: list[str]) -> int:
    """Run the ladder; 0."""
    parser = argparse.ArgumentParser(prog="gpu_ladder.py", description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--minutes", type=float, default=8.0, help="no rung begins after these")
    parser.add_argument("--dry-run", action="store_true", help="every rung in miniature")
    typed = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not typed.dry_run:
        parser.error("no GPU here; --dry-run runs every rung in miniature on the CPU")
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)
        if typed.out is not None:
            typed.out.write_text("\n".join(lines) + "\n")

    deadline = time.monotonic() + 60 * typed.minutes
    torch.backends.cudnn.benchmark = True
    peak = gemm_tflops(device, 256 if typed.dry_run else 8192)
    say(f"{_machine(device)}; torch {torch.__version__}; bf16 GEMM {peak:.1f} TFLOP/s\n\n{TARGETS}")
    for shape in _DRY_SHAPES if typed.dry_run else SHAPES:
        run_shape(shape, device, peak, deadline, say)
    return 0


def run_shape(
    shape: Shape, device: torch.device, peak: float, deadline: float, say: Callable[[str], None]
) -> None:
    """Measure the rungs of one shape, and say a table; rungs past the deadline are named."""
    is_miniature = shape.network == "miniature"
    config = _MINIATURE if is_miniature else CONFIGS[shape.network]
    discriminator = DiscriminatorConfig(channels=8, norm_groups=8) if is_miniature else None
    nets = random_nets(
        config, discriminator or DiscriminatorConfig(), 0.125 if is_miniature else 1.0
    )
    gflop = gflop_per_image(nets, shape.side, device)
    say(f"\n{shape.title}; {gflop:.4g} GFLOP per image\n")
    say("| step | ms/image | images/s | TFLOP/s | % of GEMM | peak GB | kept GB/image | syncs |")
    say("|---|---|---|---|---|---|---|---|")
    # In miniature on a CPU a compiler would take minutes; the rung runs without it.
    rungs = [_uncompiled(r) if device.type == "cpu" else r for r in ladder(on_gpu=True)]
    chosen = rungs if shape.is_whole_ladder else [rungs[0], rungs[-1]]
    measured = None
    for rung in chosen:
        measured = _row(nets, shape, rung, device, gflop, peak, deadline, say)
    if not shape.has_regions:
        return
    with_regions = _row(
        nets, shape, replace(chosen[-1], name="ours + text + face"), device, gflop, peak,
        deadline, say, has_regions=True,
    )  # fmt: skip
    if measured is not None and with_regions is not None:
        more = with_regions.ms_per_image / measured.ms_per_image - 1
        count = f"{_TEXT_PER_IMAGE} text and {_FACES_PER_IMAGE} face per image"
        say(f"\n{count}: {100 * more:+.1f} % of ours")


def _row(
    nets: Nets,
    shape: Shape,
    rung: Rung,
    device: torch.device,
    gflop: float,
    peak: float,
    deadline: float,
    say: Callable[[str], None],
    *,
    has_regions: bool = False,
) -> Measured | None:
    if time.monotonic() > deadline:
        say(f"| {rung.name} | not run: no time left | | | | | | |")
        return None
    try:
        one = measure(nets, shape, rung, device, has_regions=has_regions)
    except torch.OutOfMemoryError:
        say(f"| {rung.name} | does not fit | | | | | | |")
        one = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if one is not None:
        tflops = gflop / one.ms_per_image
        say(
            f"| {rung.name} | {one.ms_per_image:.2f} | {1000 / one.ms_per_image:.1f} "
            f"| {tflops:.1f} | {100 * tflops / peak:.0f} | {one.peak_gb:.1f} "
            f"| {one.kept_gb_per_image:.2f} | {one.syncs} |"
        )
    return one


def measure(
    nets: Nets, shape: Shape, rung: Rung, device: torch.device, *, has_regions: bool = False
) -> Measured:
    """Median time of some steps after the warm-ups, memory, and one step's synchronisations."""
    contestant = Contestant(
        nets,
        rung,
        device,
        is_narrow=True,
        nets_of_regions=_region_nets(device) if has_regions else None,
        objective=replace(OBJECTIVE, text_weight=0.01, face_weight=0.02)
        if has_regions
        else OBJECTIVE,
    )
    generator = torch.Generator().manual_seed(1)
    size = (shape.images, 3, shape.side, shape.side)
    x = (torch.rand(size, generator=generator) * 2 - 1).to(device)
    regions = random_regions(shape, generator).to(device) if has_regions else None
    for _ in range(shape.warm_ups):
        contestant.step(x, regions)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    started = time.monotonic()
    while len(seconds) < shape.most_steps and (
        not seconds or time.monotonic() - started < _STEPS_S
    ):
        seconds.append(_seconds(lambda: contestant.step(x, regions), device))
    is_gpu = device.type == "cuda"
    return Measured(
        1000 * statistics.median(seconds) / shape.images,
        torch.cuda.max_memory_allocated() / 1e9 if is_gpu else 0.0,
        contestant.kept_bytes / shape.images / 1e9,
        _syncs(lambda: contestant.step(x, regions)) if is_gpu else 0,
    )


def gflop_per_image(nets: Nets, side: int, device: torch.device) -> float:
    """Matrix work of a step for one image, counted while it runs uncompiled; 1e9 FLOP.

    Of the rung before the last, since torch's counter does not follow `torch.autograd.grad`: the
    discriminator's superfluous weight gradients make it 0.1 to 0.5 % more than ours needs.
    """
    contestant = Contestant(nets, _uncompiled(ladder(on_gpu=True)[-2]), device, is_narrow=True)
    x = torch.rand(1, 3, side, side, device=device) * 2 - 1
    with FlopCounterMode(display=False) as counter:
        contestant.step(x)
    return float(counter.get_total_flops()) / 1e9


def gemm_tflops(device: torch.device, side: int) -> float:
    """Best of ten products of random bfloat16 matrices; zeros would run faster than any data."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return max(2 * side**3 / _seconds(lambda: a @ b, device) / 1e12 for _ in range(10))


def random_regions(shape: Shape, generator: torch.Generator) -> RegionBatch:
    """Text boxes of about a sixth by a third of the side, faces of half the side."""
    num_text, num_faces = _TEXT_PER_IMAGE * shape.images, _FACES_PER_IMAGE * shape.images
    extent = torch.tensor([shape.side / 3, shape.side / 6])
    corners = torch.rand(num_text, 2, generator=generator) * (shape.side - extent)
    return RegionBatch(
        text_boxes=torch.cat([corners, corners + extent], 1),
        text_image=torch.arange(num_text) // _TEXT_PER_IMAGE,
        text_weight=torch.full((num_text,), 1 / 18),
        face_theta=torch.tensor([[0.5, 0.0, 0.1], [0.0, 0.5, -0.1]]).expand(num_faces, 2, 3),
        face_image=torch.arange(num_faces) // _FACES_PER_IMAGE,
        face_weight=torch.full((num_faces,), 0.25),
    )


def _region_nets(device: torch.device) -> FrozenNets:
    torch.manual_seed(2)
    text = AbinetVision(("layer1", "layer2", "layer3", "layer4", "layer5"))
    face = IResNet50(("layer1", "layer2", "layer3", "layer4"))
    nets: list[nn.Module] = [net.eval().requires_grad_(False).to(device) for net in (text, face)]
    return FrozenNets(text=nets[0], face=nets[1])


def _uncompiled(rung: Rung) -> Rung:
    return replace(rung, machine=replace(rung.machine, compile=False))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def _syncs(run: Callable[[], object]) -> int:
    """Times that the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def _machine(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
