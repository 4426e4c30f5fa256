"""What the detectors find on annotated photographs, and what damaged files become; Markdown.

The data is a folder with `text.jsonl`, `faces.jsonl` and `evil.jsonl`: a JSON object for each file,
with its ground truth. It is no part of the project: give it by --data or INSIGHTTOK_DATA.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from annotations_schema.codes import FailureCode
from annotations_schema.errors import UsageError
from annotations_schema.geometry import box_quads
from annotations_schema.images import ImageDecodeError, decode, probe
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.annotate.detectors import list_detectors, load_face_detector, load_text_detector
from curation.annotate.protocols import Detector, DetectorOptions
from tests.benchmarks.photos import photos
from tests.fetched_datasets import SHARD, write_pass

DATA_VARIABLE = "INSIGHTTOK_DATA"
TEXT_IOU_MIN, FACE_IOU_MIN = 0.5, 0.3
DONT_CARE_SHARE = 0.5
"""A text region of which more than this lies in a don't-care region counts neither way."""
FACE_BINS_PX = (0, 16, 32, 64, 128, 10**6)
COMPARED = 12
"""Images on which adapters and libraries are compared."""

EVIL_RUN = """
import sys
from pathlib import Path
from curation.annotate.config import AnnotateConfig
from curation.annotate.stage import AnnotateStage
stage = AnnotateStage(Path(sys.argv[1]), AnnotateConfig())
stage.open()
stage.run(sys.argv[2])
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""

Quads = NDArray[np.float64]


class Truth(NamedTuple):
    """An image and what a person said of it."""

    image: NDArray[np.uint8]
    fields: dict[str, Any]


def bench_quality(data: str | None, limit: int | None) -> None:
    """Print the tables.

    Args:
        data: the folder; None: $INSIGHTTOK_DATA.
        limit: most images of each kind; None: all.

    Raises:
        UsageError: there is no such folder.
    """
    given = data or os.environ.get(DATA_VARIABLE)
    folder = Path(given or "")
    if not given or not (folder / "text.jsonl").is_file():
        where = f"in {given}" if given else "are given"
        raise UsageError(
            f"no annotated photographs {where}; give their folder by --data or ${DATA_VARIABLE}"
        )
    cv2.setNumThreads(1)
    ready = [row for row in list_detectors() if row.is_ready]
    _print_text(folder, limit, [row.name for row in ready if row.kind == "text"])
    _print_faces(folder, limit, [row.name for row in ready if row.kind == "face"])
    absent = ", ".join(row.name for row in list_detectors() if not row.is_ready)
    print(f"\nNot measured, their weights are not here: {absent}.")
    _print_equality(folder)
    _print_evil(folder, limit)


def _truths(folder: Path, name: str, limit: int | None) -> Iterator[Truth]:
    for line in (folder / f"{name}.jsonl").read_text().splitlines()[:limit]:
        fields = json.loads(line)
        yield Truth(decode((folder / fields["file"]).read_bytes())[0], fields)


def _timed(detector: Detector[Any], image: NDArray[np.uint8], spent: list[float]) -> Any:
    started = time.perf_counter()
    regions = detector.detect(image)
    spent.append(time.perf_counter() - started)
    return regions


def _print_text(folder: Path, limit: int | None, names: list[str]) -> None:
    print("\n| text detector | ground truth | images | regions | recall | precision | images/s |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        detector = load_text_detector(name, DetectorOptions())
        assert detector is not None
        # By level: found, true and (where all text is annotated) claimed regions; seconds.
        found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        spent: dict[str, list[float]] = defaultdict(list)
        for image, fields in _truths(folder, "text", limit):
            complete = "all text" if fields["gt_complete"] else "some text"
            level = f"{fields['gt_level']}s, {complete}"
            regions = _timed(detector, image, spent[level])
            hits, num_true, num_claimed = match_text(
                regions.quad.astype(np.float64), fields["instances"]
            )
            found[level] = np.add(found[level], [hits, num_true, num_claimed, 1]).tolist()
        for level, (hits, num_true, num_claimed, images) in sorted(found.items()):
            precision = f"{hits / num_claimed:.2f}" if level.endswith("all text") else "-"
            rate = len(spent[level]) / sum(spent[level])
            print(
                f"| {name} | {level} | {images} | {num_true} | {hits / num_true:.2f} | "
                f"{precision} | {rate:.1f} |"
            )


def match_text(quads: Quads, instances: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Regions found, regions there, regions claimed; don't-care regions count nowhere."""
    true = [np.array(one["polygon"]) for one in instances if not one["ignore"]]
    dont_care = [np.array(one["polygon"]) for one in instances if one["ignore"]]
    overlaps = np.array([[polygon_iou(quad, one) for one in true] for quad in quads])
    pairs = one_to_one(overlaps.reshape(len(quads), len(true)), TEXT_IOU_MIN)
    matched = {claimed for claimed, _ in pairs}
    ignored = sum(
        n not in matched
        and any(intersection(quad, one) > DONT_CARE_SHARE * area(quad) for one in dont_care)
        for n, quad in enumerate(quads)
    )
    return len(pairs), len(true), len(quads) - ignored


def one_to_one(overlaps: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of a table of overlaps, the largest first, each used once."""
    pairs: list[tuple[int, int]] = []
    left = overlaps.copy()
    while left.size and left.max() >= least:
        row, column = (int(i) for i in np.unravel_index(int(left.argmax()), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = -1.0, -1.0
    return pairs


def area(polygon: Quads) -> float:
    """Area of a polygon (N, 2), square pixels."""
    return float(cv2.contourArea(cv2.convexHull(polygon.astype(np.float32))))


def intersection(a: Quads, b: Quads) -> float:
    """Common area of two polygons (N, 2), square pixels; each counts as its convex hull."""
    hulls = [cv2.convexHull(one.astype(np.float32)) for one in (a, b)]
    return float(cv2.intersectConvexConvex(*hulls)[0])


def polygon_iou(a: Quads, b: Quads) -> float:
    """Common area over joint area of two polygons (N, 2)."""
    common = intersection(a, b)
    joint = area(a) + area(b) - common
    return common / joint if joint > 0 else 0.0


def _print_faces(folder: Path, limit: int | None, names: list[str]) -> None:
    bins = list(itertools.pairwise(FACE_BINS_PX))
    labels = [f"{a} to {b} px" if b < 10**6 else f"over {a} px" for a, b in bins]
    print(f"\n| face detector | recall, {' | '.join(labels)} | landmark error | images/s |")
    print("|---" * (len(bins) + 3) + "|")
    for name in names:
        detector = load_face_detector(name, DetectorOptions())
        assert detector is not None
        hits, there, spent = np.zeros(len(bins), int), np.zeros(len(bins), int), []
        errors: list[float] = []
        num_landmarked = 0
        for image, fields in _truths(folder, "faces", limit):
            regions = _timed(detector, image, spent)
            true = [one for one in fields["faces"] if one["bbox"] and not one["ignore"]]
            quads = box_quads(regions.box_xyxy)
            overlaps = [
                [polygon_iou(quad, box_quads([one["bbox"]])[0]) for one in true] for quad in quads
            ]
            table = np.array(overlaps).reshape(len(quads), len(true))
            found = {column for _, column in one_to_one(table, FACE_IOU_MIN)}
            for number, one in enumerate(true):
                x0, y0, x1, y1 = one["bbox"]
                place = int(np.digitize(max(x1 - x0, y1 - y0), FACE_BINS_PX)) - 1
                there[place] += 1
                hits[place] += number in found
            for one in fields["faces"]:
                if one["landmarks5"]:
                    num_landmarked += 1
                    errors += landmark_error(regions, np.array(one["landmarks5"]))
        cells = [f"{h / n:.2f} ({n})" if n else "-" for h, n in zip(hits, there, strict=True)]
        error = (
            f"median {np.median(errors):.3f}, 90 % below {np.quantile(errors, 0.9):.3f}, "
            f"{len(errors)} of {num_landmarked} faces"
            if errors
            else "-"
        )
        print(f"| {name} | {' | '.join(cells)} | {error} | {len(spent) / sum(spent):.1f} |")
    print("\nLandmark error: mean distance of the five points over the distance of the eyes.")


def landmark_error(regions: Any, points: NDArray[np.float64]) -> list[float]:
    """Of the found face nearest to five points, where its box holds their middle; else nothing."""
    middle = points.mean(axis=0)
    boxes = regions.box_xyxy
    inside = ((boxes[:, :2] <= middle) & (middle <= boxes[:, 2:])).all(axis=1)
    if not inside.any():
        return []
    distances = np.linalg.norm(regions.landmarks_5[inside] - points, axis=2).mean(axis=1)
    return [float(distances.min() / np.linalg.norm(points[1] - points[0]))]


def _print_equality(folder: Path) -> None:
    """The adapters beside the libraries' own calls, on the same pixels with the same settings."""
    import retinaface
    from rapidocr import RapidOCR

    settings = {
        "Det.mean": [0.485, 0.456, 0.406],
        "Det.std": [0.229, 0.224, 0.225],
        "Det.unclip_ratio": 1.2,
        "Global.log_level": "critical",
    }
    engine: Any = RapidOCR(params=settings)
    text = load_text_detector("ppocr_v6_small", DetectorOptions())
    faces = load_face_detector("retinaface_mnet025", DetectorOptions(input_sides_px=(1920,)))
    assert text is not None
    assert faces is not None
    differences, counts = [0.0], []
    for image, _ in _truths(folder, "text", COMPARED):
        theirs = engine(image[:, :, ::-1], use_det=True, use_cls=False, use_rec=False).boxes
        quads = np.zeros((0, 4, 2)) if theirs is None else np.asarray(theirs)
        counts.append((len(text.detect(image)), len(quads)))
        differences.append(_largest_difference(text.detect(image).quad, quads))
    same = sum(a == b for a, b in counts)
    print(
        f"\nppocr_v6_small beside rapidocr's own call: the same number of regions in {same} of "
        f"{len(counts)} images, corners at most {max(differences):.3g} px apart."
    )
    differences, counts = [0.0], []
    for image, _ in _truths(folder, "faces", COMPARED):
        own = retinaface.detect_faces(image)
        found = faces.detect(image)
        counts.append((len(found), len(own)))
        points = [[(p.x, p.y) for p in face.landmarks] for face in own]
        # The package cuts off fractions, and its points are edges.
        whole = np.trunc(found.landmarks_5.astype(np.float64) + 0.5)
        differences.append(_largest_difference(whole, np.array(points).reshape(-1, 5, 2)))
    same = sum(a == b for a, b in counts)
    print(
        f"retinaface_mnet025 in one pass beside the package's own call: the same number of faces "
        f"in {same} of {len(counts)} images, landmarks at most {max(differences):.3g} px apart "
        "(the package cuts off fractions)."
    )


def _largest_difference(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Of points (N, K, 2) to the nearest region of the other side, pixels."""
    if not len(ours) or not len(theirs):
        return 0.0
    apart = np.abs(ours[:, None].astype(np.float64) - theirs[None]).max(axis=(2, 3))
    return float(max(apart.min(axis=0).max(), apart.min(axis=1).max()))


def _print_evil(folder: Path, limit: int | None) -> None:
    """Damaged and odd files between good ones, through the stage in a process of its own."""
    lines = (folder / "evil.jsonl").read_text().splitlines()[:limit]
    files = {fields["file"]: fields for fields in map(json.loads, lines)}
    outcomes: dict[str, str] = {}
    stored: dict[str, bytes | None] = {}
    good = {f"good-{number}": data for number, data in enumerate(photos())}
    for number, name in enumerate(files):
        data = (folder / name).read_bytes()
        try:
            probe(data)
        except ImageDecodeError as error:  # fetch reads the header and stores nothing
            outcomes[name] = error.code
        else:
            stored[name] = data
        if number % 20 == 0 and number // 20 < len(good):
            key = f"good-{number // 20}"
            stored[key] = good[key]
    with tempfile.TemporaryDirectory(prefix="quality-") as temporary:
        mixed, alone = (DatasetLayout(Path(temporary) / one) for one in ("mixed", "alone"))
        kept = {name: data for name, data in stored.items() if name in good}
        peaks = [_annotate_apart(layout, rows) for layout, rows in ((mixed, stored), (alone, kept))]
        for row, code in zip(
            stored, read_manifest(mixed.annotations(SHARD))["failure_code"], strict=True
        ):
            outcomes[row] = code.as_py() or "ok"
        untouched = _regions(mixed, list(stored), kept) == _regions(alone, list(kept), kept)
    expected: dict[str, Callable[[str], bool]] = {
        "reject:bomb": lambda code: code != "ok",
        "reject:unreadable": lambda code: code != "ok",
        "reject:decode-error": lambda code: code != "ok",
        "decodes": lambda code: code == "ok",
        "decodes:degenerate-size": lambda code: code == "ok",
        "reject-or-limit:bomb-warning": lambda code: code in (FailureCode.PIXEL_CAP, "ok"),
        "decodes-but-verify-fails": lambda code: True,
    }
    odd = [
        f"{name} ({fields['outcome_class']}): {outcomes[name]}"
        for name, fields in files.items()
        if not expected[fields["outcome_class"]](outcomes[name])
    ]
    print(
        f"\n{len(files)} damaged and odd files: {len(files) - len(odd)} end as Pillow's own word."
    )
    for line in odd:
        print(f"- {line}")
    print(
        f"The {len(kept)} good images between them are {'untouched' if untouched else 'CHANGED'}; "
        f"peak memory {peaks[0]:.0f} MiB, {peaks[1]:.0f} MiB with the good images alone."
    )


def _annotate_apart(layout: DatasetLayout, images: dict[str, bytes | None]) -> float:
    """Annotate in a process of its own; its peak memory, MiB."""
    write_pass(layout, SHARD, images, {name: number for number, name in enumerate(images)})
    command = [sys.executable, "-c", EVIL_RUN, str(layout.root), SHARD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


def _regions(layout: DatasetLayout, names: list[str], wanted: dict[str, Any]) -> dict[str, Any]:
    columns = ["sha256", "phash", "text_regions", "face_regions", "dropped_regions"]
    rows = read_manifest(layout.annotations(SHARD)).select(columns).to_pylist()
    return {name: row for name, row in zip(names, rows, strict=True) if name in wanted}
