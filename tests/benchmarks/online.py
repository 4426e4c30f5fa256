"""What precomputed regions save: one training step, and the same step with detectors in the loop.

(a) precomputed: regions come from the manifest.
(b) batched: the detectors look at as many images side by side as there are cores, each network on
    one thread: the fastest that a CPU gave (see curation.annotate.looking).
(c) naive: image by image, text and then faces, each network on all cores: the usual data-loading
    function.

Detectors run on the whole images, as curation runs them. Before the clock starts, (b) and (c) must
find what the manifest says, so that all three steps compute the same losses.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from annotations_schema.images import decode
from annotations_schema.layout import DatasetLayout
from annotations_schema.regions import FaceRegions, TextRegions
from annotations_schema.weights import read_weights
from curation.annotate.cards import PPOCR_V6_SMALL_DET, RETINAFACE_MNET025
from curation.annotate.config import AnnotateConfig
from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.face_retinaface import INPUT_SIDES_PX, pass_sizes
from curation.annotate.looking import map_in_order
from curation.annotate.stage import AnnotateStage
from tests.benchmarks.timing import interleaved, ratio, show
from tests.fetched_datasets import SHARD, write_pass
from tests.training_datasets import encode, few_pictures
from training.config import Phase, TrainConfig
from training.data.batch import Batch, collate
from training.data.manifest import ManifestDataset
from training.data.transforms import AnnotatedImage, CropConfig, random_sample
from training.recipes import tiny_regions
from training.setup import load_frozen_nets
from training.state import initial_state
from training.step import optimize

ROUNDS = 3
SIDE, IMAGE_SIDE = 128, 256
CPU = torch.device("cpu")

# From the count of FLOPs in the project's study: one forward pass per image, in 1e9.
DETECTORS_GF = 234.0 + 100.0  # DB-R50 at 1024 x 1024 and RetinaFace-R50 at 640 x 640
STEPS_GF = {"426M at 256 px": 7_890.0, "72M at 256 px": 1_344.0}
REGIONS_GF = 3 * (3 * 6.97 + 12.6)  # three texts through ABINet's five layers, a face, three passes

Image = NDArray[np.uint8]
Regions = tuple[TextRegions, FaceRegions]
Detect = Callable[[Sequence[Image]], list[Regions]]


def bench_online() -> None:
    """Eight images of 256 px, a step of the tiny tokenizer at 128 px with text and face loss."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench-online-") as folder:
        dataset = _annotated(Path(folder) / "dataset")
        config = _config()
        online = {"(b) online, batched": _batched(cores), "(c) online, naive": _naive(cores)}
        _check_regions(dataset, online)
        batch = _batch(_precomputed(dataset), config)
        step = _step(config, batch)

        def precomputed() -> None:
            step(_batch(_precomputed(dataset), config))

        def detecting(detect: Detect) -> Callable[[], None]:
            return lambda: step(_batch(_detected(dataset, detect), config))

        contestants: dict[str, Callable[[], object]] = {"(a) precomputed": precomputed}
        contestants |= {name: detecting(detect) for name, detect in online.items()}
        timings = interleaved(contestants, rounds=ROUNDS)
        images, regions = len(dataset), batch.regions
        show(
            f"Step of the tiny tokenizer at {SIDE} px: {images} images, "
            f"{len(regions.text_weight)} texts, {len(regions.face_weight)} faces",
            timings,
            dict.fromkeys(timings, float(images)),
        )
        for name in online:
            print(f"  {name} over precomputed: {ratio(timings, name, '(a) precomputed')}")
        _print_ideals(_counted(lambda: step(batch)), _detector_flops(dataset))


def _annotated(root: Path) -> ManifestDataset:
    """Rendered words, portraits, photographs, annotated by the stage itself."""
    layout = DatasetLayout(root)
    files = {f"{n}.png": encode(picture) for n, picture in enumerate(few_pictures(IMAGE_SIDE))}
    write_pass(layout, SHARD, files, {name: n for n, name in enumerate(files)})
    stage = AnnotateStage(root, AnnotateConfig())
    stage.open()
    stage.run(SHARD)
    return ManifestDataset([root])


def _config() -> TrainConfig:
    """The recipe's phase with region losses from the first step on."""
    config = tiny_regions()
    objective = config.phases[-1].objective
    return replace(
        config,
        phases=(Phase(name="regions", steps=1_000, objective=objective),),
        data=replace(config.data, crop=CropConfig(size_px=SIDE, min_text_px=4, min_window=0.9)),
    )


def _precomputed(dataset: ManifestDataset) -> list[AnnotatedImage]:
    return [dataset.read(index) for index in range(len(dataset))]


def _decoded(dataset: ManifestDataset) -> list[Image]:
    return [decode(dataset.read_bytes(index))[0] for index in range(len(dataset))]


def _detected(dataset: ManifestDataset, detect: Detect) -> list[AnnotatedImage]:
    images = _decoded(dataset)
    return [
        AnnotatedImage(
            image_id=dataset.image_id(index),
            image=image,
            text_boxes=text.box_xyxy,
            face_boxes=faces.box_xyxy[faces.is_valid],
            crop_from_image=faces.crop_from_image[faces.is_valid],
            is_text_free=not len(text),
        )
        for index, (image, (text, faces)) in enumerate(zip(images, detect(images), strict=True))
    ]


def _batched(cores: int) -> Detect:
    text, face = _detectors(threads=1)

    def look(image: Image) -> Regions:
        return text.detect(image), face.detect(image)

    return lambda images: list(map_in_order(look, images, cores))


def _naive(cores: int) -> Detect:
    text, face = _detectors(threads=cores)
    return lambda images: [(text.detect(image), face.detect(image)) for image in images]


def _detectors(threads: int) -> tuple[Any, Any]:
    config = AnnotateConfig()
    return (
        load_text_detector(config.text_detector, replace(config.text_options, threads=threads)),
        load_face_detector(config.face_detector, replace(config.face_options, threads=threads)),
    )


def _check_regions(dataset: ManifestDataset, online: Mapping[str, Detect]) -> None:
    """Detectors in the loop find, on the same pixels, what the manifest says."""
    known = _precomputed(dataset)
    assert sum(len(one.text_boxes) for one in known) >= 4
    assert sum(len(one.face_boxes) for one in known) >= 2
    for name, detect in online.items():
        for ours, theirs in zip(known, _detected(dataset, detect), strict=True):
            for field in AnnotatedImage._fields:
                assert np.array_equal(getattr(ours, field), getattr(theirs, field)), (name, field)


def _batch(annotated: Sequence[AnnotatedImage], config: TrainConfig) -> Batch:
    samples = [
        random_sample(one, config.data.crop, seed=0, stream_position=position)
        for position, one in enumerate(annotated)
    ]
    return collate(samples, max_text=64, max_faces=32).to(CPU)


def _step(config: TrainConfig, batch: Batch) -> Callable[[Batch], object]:
    assert len(batch.regions.text_weight)
    assert len(batch.regions.face_weight)
    state, nets = initial_state(config, CPU), load_frozen_nets(config, CPU)
    return lambda loaded: optimize(state, config, nets, [loaded])


class _FlopCounter(TorchDispatchMode):
    """Counts with torch's formulas. Its own FlopCounterMode also follows modules, with hooks that
    cannot be under `torch.autograd.grad` at a leaf, which the objective uses."""

    flops = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        return output


def _counted(run: Callable[[], object]) -> float:
    """FLOPs of matrix products and convolutions, forward and backward."""
    with _FlopCounter() as counter:
        run()
    return counter.flops


def _detector_flops(dataset: ManifestDataset) -> float:
    """FLOPs of the detectors' convolutions over all images, counted in their ONNX graphs."""
    text_model, face_model = map(read_weights, (PPOCR_V6_SMALL_DET, RETINAFACE_MNET025))
    text, _ = _detectors(threads=1)
    total = 0.0
    for image in _decoded(dataset):
        height, width = image.shape[:2]
        # What the adapter feeds its network; the adapter alone knows.
        total += onnx_flops(text_model, text._network_input(image).shape)
        for across, down in pass_sizes(width, height, INPUT_SIDES_PX):
            total += onnx_flops(face_model, (1, 3, down, across))
    return total


def onnx_flops(model: bytes, shape: tuple[int, ...]) -> float:
    """2 x multiply-adds of a graph's convolutions; their shapes are seen in a run of the graph."""
    graph = onnx.load_model_from_string(model).graph
    stored = {one.name: tuple(one.dims) for one in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    # A convolution does its weights' work per pixel that it writes, a transposed one per pixel that
    # it reads.
    watched = [node.output[0] if node.op_type == "Conv" else node.input[0] for node in layers]
    computed = [node.input[1] for node in layers if node.input[1] not in stored]
    shapes = stored | _shapes(model, [*watched, *computed], shape)
    return sum(
        2.0 * np.prod(shapes[tensor]) * np.prod(shapes[node.input[1]][1:])
        for node, tensor in zip(layers, watched, strict=True)
    )


def _shapes(
    model: bytes, tensors: Sequence[str], shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    opened = onnx.load_model_from_string(model)
    names = list(dict.fromkeys(tensors))
    there = {output.name for output in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in there)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(opened.SerializeToString(), sess_options=options)
    source = session.get_inputs()[0].name
    outputs = session.run(names, {source: np.zeros(shape, np.float32)})
    return {name: output.shape for name, output in zip(names, outputs, strict=True)}


def _print_ideals(step: float, detectors: float) -> None:
    ideal = (step + detectors) / step
    print(
        f"  ideal by FLOPs here: {ideal:.2f}x (step {step / 1e9:.0f} GFLOP by torch's counter, "
        f"detectors {detectors / 1e9:.0f} GFLOP by their ONNX convolutions)"
    )
    for name, plain in STEPS_GF.items():
        full = plain + REGIONS_GF
        print(
            f"  ideal derived for {name}, DB-R50 at 1024 and RetinaFace-R50 at 640, 3 texts and "
            f"1 face: {(full + DETECTORS_GF) / full:.3f}x ({full:.0f} + {DETECTORS_GF:.0f} GFLOP)"
        )
    print(
        "  The tiny tokenizer inflates the ratios of this run: its step costs a small part of a "
        "real one's, the detectors cost what they cost. The derived ideals are what precomputing "
        "saves at least, against detectors that are batched perfectly on the same device."
    )
