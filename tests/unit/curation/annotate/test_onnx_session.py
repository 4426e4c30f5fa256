"""Sessions that run where they were asked to, with the threads they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from annotations_schema.errors import UsageError, WeightsError
from curation.annotate.onnx_session import (
    execution_providers,
    onnx_errors,
    open_session,
    require_active,
)
from curation.annotate.protocols import Provider


def test_threads_are_pinned(red_cell_detector: Path) -> None:
    session = open_session(red_cell_detector.read_bytes(), "x", 3, Provider.CPU)
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_bytes_that_are_no_graph_are_one_clear_line() -> None:
    with pytest.raises(WeightsError, match="x: onnxruntime cannot load these weights") as caught:
        open_session(b"not a graph", "x", 1, Provider.CPU)
    assert "\n" not in str(caught.value)


def test_an_absent_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="'cuda' needs CUDAExecutionProvider"):
        execution_providers(Provider.CUDA)


def test_a_session_that_fell_back_to_the_cpu_is_refused(red_cell_detector: Path) -> None:
    session = open_session(red_cell_detector.read_bytes(), "x", 1, Provider.CPU)
    with pytest.raises(UsageError, match="'cuda' was asked for, but onnxruntime runs on CPU"):
        require_active(session, Provider.CUDA)


def test_a_wrong_input_raises_one_of_onnxruntime_s_errors(red_cell_detector: Path) -> None:
    session = open_session(red_cell_detector.read_bytes(), "x", 1, Provider.CPU)
    with pytest.raises(onnx_errors()):
        session.run(None, {"input": np.zeros((1, 4, 64, 64), np.float32)})
