"""The table of detectors: names, availability, one clear line for what cannot run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from annotations_schema.errors import UsageError
from curation.annotate import detectors
from curation.annotate.detectors import (
    FACE_DETECTORS,
    TEXT_DETECTORS,
    DetectorRow,
    list_detectors,
    load_face_detector,
    load_text_detector,
)
from curation.annotate.protocols import DetectorOptions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, so that no cached weights of this machine are found."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCTR_CACHE_DIR", raising=False)
    return tmp_path


def row(name: str) -> DetectorRow:
    (found,) = (row for row in list_detectors() if row.name == name)
    return found


def test_every_detector_has_a_row_and_text_comes_first(home: Path) -> None:
    rows = list_detectors()
    assert [r.name for r in rows] == [*TEXT_DETECTORS, *FACE_DETECTORS]
    assert [r.kind for r in rows] == ["text"] * len(TEXT_DETECTORS) + ["face"] * len(FACE_DETECTORS)
    assert all(r.weights_licence and r.status and r.description for r in rows)
    assert all(r.library_version for r in rows)


def test_the_defaults_are_embedded_and_ready(home: Path) -> None:
    defaults = [r for r in list_detectors() if r.is_default]
    assert [r.name for r in defaults] == ["ppocr_v6_small", "retinaface_mnet025"]
    assert all(r.is_ready for r in defaults)
    assert [r.weights_licence for r in defaults] == ["Apache-2.0", "MIT"]


def test_weights_to_be_downloaded_are_not_ready_until_the_library_has_them(home: Path) -> None:
    assert not row("doctr_db_resnet50").is_ready
    assert "needs weights" in row("doctr_db_resnet50").status
    cache = home / ".cache/doctr/models"
    cache.mkdir(parents=True)
    (cache / "db_resnet50-79bd7d70.pt").touch()
    assert row("doctr_db_resnet50").is_ready
    assert not row("insightface_buffalo_l").is_ready
    pack = home / ".insightface/models/buffalo_l"
    pack.mkdir(parents=True)
    assert not row("insightface_buffalo_l").is_ready
    (pack / "det_10g.onnx").touch()
    assert row("insightface_buffalo_l").is_ready


def test_licences_of_the_insightface_packs_are_told(home: Path) -> None:
    assert row("insightface_buffalo_l").weights_licence.startswith("non-commercial")


def test_a_detector_without_its_package_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "installed_version", lambda distribution: None)
    assert row("ppocr_v6_small").status == (
        "rapidocr is not installed; install the extra 'embedded' of open-insighttok"
    )
    with pytest.raises(UsageError, match="needs the package python-doctr; install the extra 'cur"):
        load_text_detector("doctr_db_resnet50", DetectorOptions())


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown text detector 'east'.*ppocr_v6_small.*none"):
        load_text_detector("east", DetectorOptions())
    with pytest.raises(UsageError, match=r"unknown face detector 'yolo'.*retinaface_mnet025"):
        load_face_detector("yolo", DetectorOptions())


def test_none_loads_nothing() -> None:
    assert load_text_detector("none", DetectorOptions()) is None
    assert load_face_detector("none", DetectorOptions()) is None


def test_listing_imports_no_detection_library() -> None:
    code = (
        "import sys; from curation.annotate.detectors import list_detectors; list_detectors(); "
        "heavy = {'torch', 'cv2', 'doctr', 'insightface', 'rapidocr', 'onnxruntime'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
