"""onnxruntime sessions with pinned threads and a provider that is really the one asked for."""

from __future__ import annotations

from typing import Any

import onnxruntime

from annotations_schema.errors import UsageError, WeightsError
from curation.annotate.protocols import Provider

_EXECUTION_PROVIDERS = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
}

_ERRORS_ONLY = 3


def execution_providers(provider: Provider) -> list[str]:
    """onnxruntime's provider list for `provider`; one name, so nothing else can take its place.

    Raises:
        UsageError: the installed onnxruntime cannot offer it.
    """
    wanted = _EXECUTION_PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise UsageError(
            f"provider {provider.value!r} needs {wanted}, but the installed onnxruntime offers "
            f"{', '.join(available)}; install onnxruntime-gpu or use provider 'cpu'"
        )
    return [wanted]


def session_options(threads: int) -> Any:
    """onnxruntime SessionOptions with `threads` intra-op threads and one inter-op thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def open_session(model: bytes, name: str, threads: int, provider: Provider) -> Any:
    """An onnxruntime InferenceSession over the ONNX file content `model`.

    Raises:
        UsageError: the provider is not available or did not become active.
        WeightsError: `model` is no ONNX graph that onnxruntime can run.
    """
    providers = execution_providers(provider)
    if provider is Provider.CUDA:
        onnxruntime.preload_dlls()  # finds the CUDA libraries that torch's wheels brought along
    try:
        session = onnxruntime.InferenceSession(
            model, sess_options=session_options(threads), providers=providers
        )
    except onnx_errors() as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{name}: onnxruntime cannot load these weights: {reason}") from error
    require_active(session, provider)
    return session


def require_active(session: Any, provider: Provider) -> None:
    """Check that the session computes where it was asked to.

    onnxruntime falls back to the CPU with no more than a log line when CUDA cannot start.

    Raises:
        UsageError: another provider took its place.
    """
    active = session.get_providers()
    if active[0] != _EXECUTION_PROVIDERS[provider]:
        raise UsageError(
            f"provider {provider.value!r} was asked for, but onnxruntime runs on "
            f"{', '.join(active)}; check the CUDA libraries or use provider 'cpu'"
        )


def onnx_errors() -> tuple[type[Exception], ...]:
    """The exceptions that onnxruntime raises for a bad graph, a bad input or a failed run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile")
    more = ("NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names + more)
