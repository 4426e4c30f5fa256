"""The libraries' own downloads of the published judges: asked for, from loopback, or one line."""

import contextlib
import functools
import hashlib
import http.server
import json
import socket
import threading
import zipfile
from dataclasses import replace

import pytest
from PIL import Image

from annotations_schema import UsageError, WeightsError
from training.cli import main
from training.evaluation.antelope_net import download_antelopev2
from training.evaluation.doctr_reader import download_parseq
from training.evaluation.face import load_face_net
from training.evaluation.networks import (
    ANTELOPEV2_SHA256,
    PARSEQ_SHA256,
    NetworkRecord,
    published,
)
from training.evaluation.results import metric_name
from training.evaluation.text import load_text_recogniser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder and the loopback address under which its files can be fetched."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of both libraries."""
    monkeypatch.setenv("DOCTR_CACHE_DIR", str(tmp_path / "doctr"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


@pytest.fixture
def offline(caches, monkeypatch):
    """Every request goes to a loopback port where nobody listens."""
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    return caches


def test_parseq_is_fetched_by_doctr_once_and_its_hash_is_checked(
    caches, served, monkeypatch, capsys
):
    from doctr.models.recognition.parseq.pytorch import default_cfgs

    folder, address = served
    name = f"parseq-{hashlib.sha256(b'weights').hexdigest()[:8]}.pt"
    (folder / name).write_bytes(b"weights")
    monkeypatch.setitem(default_cfgs["parseq"], "url", address + name)
    path = download_parseq()
    assert path == caches / "doctr" / "models" / name
    assert path.read_bytes() == b"weights"
    assert capsys.readouterr().out == ""  # stdout is for results
    (folder / name).unlink()
    assert download_parseq() == path  # from the cache

    path.unlink()
    (folder / name).write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"download failed \(corrupted.*--text-weights"):
        download_parseq()
    assert not path.exists()


@pytest.mark.parametrize("inside", ["", "antelopev2/"])
def test_antelopev2_is_fetched_by_insightface_also_where_its_zip_has_a_folder(
    caches, served, monkeypatch, capsys, inside
):
    import insightface.utils.storage as storage

    folder, address = served
    monkeypatch.setattr(storage, "MODEL_ZOO_RELEASE_DOWNLOAD_URL", address)
    with zipfile.ZipFile(folder / "antelopev2.zip", "w") as archive:
        archive.writestr(f"{inside}glintr100.onnx", b"weights")
    path = download_antelopev2()
    models = caches / "home" / ".insightface" / "models"
    assert path == models / "antelopev2" / f"{inside}glintr100.onnx"
    assert path.read_bytes() == b"weights"
    assert capsys.readouterr().out == ""

    path.unlink()
    with pytest.raises(WeightsError, match=r"holds no glintr100\.onnx; remove the folder"):
        download_antelopev2()


def test_a_zip_that_is_none_is_one_line(caches, served, monkeypatch):
    import insightface.utils.storage as storage

    folder, address = served
    monkeypatch.setattr(storage, "MODEL_ZOO_RELEASE_DOWNLOAD_URL", address)
    (folder / "antelopev2.zip").write_text("<html>")
    with pytest.raises(WeightsError, match=r"download failed.*--face-weights") as caught:
        download_antelopev2()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "judge", "option"),
    [
        ("text-recogniser", "doctr_parseq", "text"),
        ("face-net", "insightface_antelopev2", "face"),
    ],
)
def test_without_a_network_the_command_ends_with_one_line_and_2(
    offline, capfd, kind, judge, option
):
    Image.new("RGB", (20, 20)).save(offline / "a.png")
    entry = {"file_name": "a.png", "width": 20, "height": 20, "annotations": []}
    (offline / "text.json").write_text(json.dumps([entry]))
    arguments = ["evaluate", "--tokbench", str(offline / "text.json")]
    arguments += ["--tokbench-images", str(offline), "--out", str(offline / "out")]
    arguments += ["--text-recogniser", "none", "--face-net", "none"]
    arguments += ["--perceptual", "none", "--fid", "none"]
    assert main([*arguments, f"--{kind}", judge, f"--{option}-download"]) == 2
    asked = capfd.readouterr()
    assert asked.out == ""
    assert asked.err.count("\n") == 1
    assert f"{judge}: the download failed" in asked.err
    assert f"as --{option}-weights" in asked.err

    # Not asked for, nothing is fetched: no request, no cache folder, one line.
    assert main([*arguments, f"--{kind}", judge]) == 2
    not_asked = capfd.readouterr().err
    assert not_asked.count("\n") == 1
    assert f"ask for its download with --{option}-download" in not_asked
    assert not (offline / "out").exists()


def test_a_judge_that_is_installed_has_nothing_to_download():
    with pytest.raises(UsageError, match=r"easyocr_english_g2 has nothing to download.*--text-d"):
        load_text_recogniser("easyocr_english_g2", download=True)
    with pytest.raises(UsageError, match=r"dlib_resnet_v1 has nothing to download.*--face-d"):
        load_face_net("dlib_resnet_v1", download=True)


@pytest.mark.parametrize("sha256", [PARSEQ_SHA256, ANTELOPEV2_SHA256])
def test_only_the_published_file_gives_a_metric_its_published_name(sha256):
    record = NetworkRecord(
        name="judge",
        library="lib",
        library_version="1",
        weights_sha256=sha256.ljust(64, "0"),
        weights_licence="MIT",
        is_published_protocol=True,
    )
    assert metric_name("T-ACC", published(record, sha256)) == "T-ACC"
    other = published(replace(record, weights_sha256="ab" * 32), sha256)
    assert metric_name("T-ACC", other) == "T-ACC [judge abababab]"
    assert "not the published file" in other.note
