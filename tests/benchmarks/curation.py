"""What the engine costs around the libraries it uses: downloads and annotation, side by side."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
from PIL import Image
from skimage import data

from annotations_schema import DatasetLayout
from annotations_schema.images import decode
from curation.annotate.config import AnnotateConfig
from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.stage import AnnotateStage, read_fetched
from curation.demo.server import ServedFile, TroubleServer
from curation.fetch.config import FetchConfig
from curation.fetch.stage import FetchStage
from curation.plan import PlanConfig, plan
from tests.benchmarks.timing import interleaved, ratio, show

NUM_IMAGES = 400
THREADS = 16


def _photos() -> list[bytes]:
    pictures = (data.astronaut(), data.coffee(), data.rocket(), data.chelsea())
    encoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).resize((448, 320)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def bench_fetch() -> None:
    """Our fetch stage, with every guard, receipt and fsync, against img2dataset's own download."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset's resizer would ask the network
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    photos = _photos()
    files = {f"/{i}.jpg": ServedFile(photos[i % len(photos)]) for i in range(NUM_IMAGES)}
    folder = Path(tempfile.mkdtemp(prefix="bench-fetch-"))
    with TroubleServer(files) as server:
        urls = [server.url(path) for path in files]
        (folder / "urls.txt").write_text("\n".join(urls))
        config = FetchConfig(threads=THREADS, allow_private_network=True)
        (shard,) = plan(folder / "urls.txt", DatasetLayout(folder / "ours"), PlanConfig())
        stage = FetchStage(folder / "ours", config)
        stage.open()

        def theirs() -> None:
            out = folder / "theirs"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            table = pa.table({"url": urls})
            feather.write_feather(table, str(out / "list.feather"), compression="uncompressed")
            resizer = Resizer(
                image_size=256,
                resize_mode="no",
                resize_only_if_bigger=False,
                disable_all_reencoding=True,
            )
            downloader = Downloader(
                WebDatasetSampleWriter,
                resizer,
                thread_count=THREADS,
                save_caption=False,
                extract_exif=False,
                output_folder=str(out),
                column_list=["url"],
                timeout=10,
                number_sample_per_shard=NUM_IMAGES,
                oom_shard_count=5,
                compute_hash="sha256",
                verify_hash_type=None,
                encode_format="jpg",
                retries=0,
                user_agent_token=None,
                disallowed_header_directives=["noai", "noimageai", "noindex", "noimageindex"],
            )
            with contextlib.redirect_stdout(io.StringIO()):
                is_done, _ = downloader((0, str(out / "list.feather")))
            assert is_done

        timings = interleaved({"img2dataset": theirs, "insight-curate": lambda: stage.run(shard)})
    show("Fetch from a loopback server", timings, dict.fromkeys(timings, float(NUM_IMAGES)))
    print(f"  img2dataset's time over ours: {ratio(timings, 'img2dataset', 'insight-curate')}")
    shutil.rmtree(folder)


def bench_annotate() -> None:
    """The annotate stage against a bare loop over the same detectors: the engine's cost."""
    photos = _photos()
    files = {f"/{i}.jpg": ServedFile(photos[i % len(photos)]) for i in range(16)}
    folder = Path(tempfile.mkdtemp(prefix="bench-annotate-"))
    layout = DatasetLayout(folder / "dataset")
    with TroubleServer(files) as server:
        (folder / "urls.txt").write_text("\n".join(server.url(path) for path in files))
        (shard,) = plan(folder / "urls.txt", layout, PlanConfig())
        fetch = FetchStage(layout.root, FetchConfig(threads=8, allow_private_network=True))
        fetch.open()
        fetch.run(shard)
    config = AnnotateConfig()
    stage = AnnotateStage(layout.root, config)
    stage.open()
    text = load_text_detector(config.text_detector, config.text_options)
    faces = load_face_detector(config.face_detector, config.face_options)
    assert text is not None
    assert faces is not None
    tar = layout.images(shard).read_bytes()
    rows = read_fetched(layout, shard).select(["offset", "length"]).to_pylist()

    def bare() -> None:
        for row in rows:
            image, _ = decode(tar[row["offset"] : row["offset"] + row["length"]])
            text.detect(image)
            faces.detect(image)

    timings = interleaved({"bare loop": bare, "annotate stage": lambda: stage.run(shard)})
    show("Annotate, one thread, text and faces", timings, dict.fromkeys(timings, float(len(rows))))
    print(f"  bare loop's time over the stage's: {ratio(timings, 'bare loop', 'annotate stage')}")
    shutil.rmtree(folder)


def bench_decode() -> None:
    """The one decoder on photographs."""
    photos = _photos()
    timings = interleaved({"decode 448x320 JPEG": lambda: [decode(p) for p in photos]}, repeat=20)
    show("Decode", timings, dict.fromkeys(timings, float(len(photos))))
    assert decode(photos[0])[0].dtype == np.uint8
