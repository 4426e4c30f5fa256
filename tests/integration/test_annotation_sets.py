"""A retry leaves a named annotation set behind; the same annotate command brings it up to date."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from curation.cli import main
from curation.demo.server import ServedFile, TroubleServer
from curation.status import status
from curation.verify.verify import verify

SETTINGS = ("--shard-size", "2", "--allow-private-network", "--retries", "0")


def test_a_named_set_is_left_by_a_retry_and_finished_by_annotate(
    astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(astronaut[::2, ::2])).save(buffer, "JPEG")
    picture = buffer.getvalue()
    dataset = DatasetLayout(tmp_path / "dataset")
    faces = replace(dataset, annotation_set="faces")
    paths = ("/one.jpg", "/two.jpg", "/trouble/flaky.jpg", "/none.jpg")
    served = {path: ServedFile(picture) for path in paths[:2]}
    again = ["annotate", str(dataset.root), "--annotation-set", "faces"]
    with TroubleServer(served, picture=picture) as server:
        (tmp_path / "list.txt").write_text("".join(f"{server.url(path)}\n" for path in paths))
        nothing = ["--text-detector", "none", "--face-detector", "none"]
        typed = ["run", str(tmp_path / "list.txt"), "--out", str(dataset.root), *SETTINGS, *nothing]
        assert main(typed) == 0
        assert main([*again, "--face-detector", "retinaface_mnet025"]) == 0
        assert verify(faces).findings == ()
        while "http_500" in status(dataset).rows_by_code:
            assert main(["retry", str(dataset.root), "--codes", "http_500"]) == 0
    assert status(dataset).is_complete
    assert not status(faces).is_complete
    assert {one.shard for one in verify(faces).findings} == {"000001"}
    untouched = faces.annotations("000000").read_bytes()
    capsys.readouterr()
    assert main(again) == 0
    assert "annotate 1 shards done, 1 were done before" in capsys.readouterr().err
    assert status(faces).is_complete
    assert verify(faces).findings == ()
    assert faces.annotations("000000").read_bytes() == untouched
    found = read_manifest(faces.annotations("000001"))
    assert found.column("num_faces").to_pylist() == [1, None]
    assert found.column("history")[0].as_py()[-1]["failure_code"] == "http_500"
