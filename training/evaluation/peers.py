"""Other tokenizers by name: `--peer NAME=module:callable`.

The callable is either the tokenizer itself, (H, W, 3) uint8 RGB -> the same shape, or a factory
without arguments that returns one, where weights have to be loaded first. Modules of the current
folder are found. A file `peers.py` for the official projects, whose code and weights the user has:

    import numpy as np
    import torch
    from training.data.batch import to_model_range, to_pixels

    def round_trip(image, encode_decode):
        with torch.inference_mode():
            return to_pixels(encode_decode(to_model_range(image[None])))[0]

    def llamagen():  # github.com/FoundationVision/LlamaGen; likewise InsightTok's own code and IBQ
        from tokenizer.tokenizer_image.vq_model import VQ_models
        model = VQ_models["VQ-16"](codebook_size=16384, codebook_embed_dim=8).eval()
        state = torch.load("vq_ds16_t2i.pt", map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        return lambda image: round_trip(image, lambda x: model.decode(model.encode(x)[0]))

    def sd_vae():  # any autoencoder of diffusers, from a local folder
        from diffusers import AutoencoderKL
        vae = AutoencoderKL.from_pretrained("sd-vae-ft-mse", local_files_only=True).eval()
        def encode_decode(x):
            return vae.decode(vae.encode(x).latent_dist.mode()).sample
        return lambda image: round_trip(image, encode_decode)

    def webp(image):  # no factory: the callable itself
        import io
        from PIL import Image
        file = io.BytesIO()
        Image.fromarray(image).save(file, "WEBP", quality=5)
        return np.asarray(Image.open(file).convert("RGB"))

and then `--peer LlamaGen=peers:llamagen --peer SD-VAE=peers:sd_vae --peer WebP=peers:webp`. The
published insight_tok.pt needs no peer: it is a checkpoint like any other.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import InsightTokError, UsageError

Image = NDArray[np.uint8]

# What code of other people raises.
_FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A tokenizer of somebody else; `name` is for messages."""

    name: str
    call: Callable[[Image], Image]

    def __call__(self, image: Image) -> Image:
        """What it makes of (H, W, 3) uint8 RGB.

        Raises:
            UsageError: it raised something.
        """
        try:
            return self.call(image)
        except InsightTokError:
            raise
        except _FOREIGN_ERRORS as error:
            raise UsageError(
                f"peer {self.name} raised {_in_words(error)} on an image of shape {image.shape}; "
                "mend it, --debug shows where"
            ) from error


def load_peers(specs: Sequence[str]) -> dict[str, Peer]:
    """Peers by name, in order.

    Raises:
        UsageError: a text is not NAME=module:callable, a name comes twice, or a module or callable
            is not there, is no callable, or raises while it is loaded.
    """
    peers: dict[str, Peer] = {}
    for spec in specs:
        name, target = _parts(spec)
        if name in peers:
            raise UsageError(f"--peer {spec}: the name {name} is taken; name each peer differently")
        peers[name] = Peer(name=name, call=_tokenizer(spec, target))
    return peers


def _parts(spec: str) -> tuple[str, str]:
    name, _, target = spec.partition("=")
    module, _, attribute = target.partition(":")
    if not (name.strip() and module and attribute):
        raise UsageError(f"--peer {spec}: write NAME=module:callable, such as SD-VAE=peers:sd_vae")
    return name.strip(), target


def _tokenizer(spec: str, target: str) -> Callable[[Image], Image]:
    found = _attribute(spec, target)
    if not callable(found):
        raise UsageError(f"--peer {spec}: it is a {type(found).__name__}; name a callable")
    if not _is_factory(found):
        tokenizer: Callable[[Image], Image] = found
        return tokenizer
    try:
        made: Callable[[Image], Image] = found()
    except InsightTokError:
        raise
    except _FOREIGN_ERRORS as error:
        raise UsageError(
            f"--peer {spec}: the factory raised {_in_words(error)}; mend it, --debug shows where"
        ) from error
    if not callable(made):
        raise UsageError(
            f"--peer {spec}: the factory returned a {type(made).__name__}; it must return a "
            "callable image -> image"
        )
    return made


def _attribute(spec: str, target: str) -> Any:
    module_name, _, path = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; peers may import later, too
    try:
        found: Any = importlib.import_module(module_name)
    except _FOREIGN_ERRORS as error:
        raise UsageError(
            f"--peer {spec}: module {module_name} cannot be imported ({_in_words(error)}); give "
            "one of the current folder or an installed one"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(
                f"--peer {spec}: {module_name} has no {path}; it has "
                f"{', '.join(_callables(found)) or 'no callable'}"
            )
        found = getattr(found, part)
    return found


def _is_factory(found: Callable[..., Any]) -> bool:
    """Whether it takes no argument: a tokenizer takes one, the image."""
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(found).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return not any(_takes_an_image(parameter) for parameter in parameters.values())


def _takes_an_image(parameter: inspect.Parameter) -> bool:
    """Whether a call without it fails, or it takes any number of arguments."""
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return False
    is_any_number = parameter.kind is inspect.Parameter.VAR_POSITIONAL
    return is_any_number or parameter.default is inspect.Parameter.empty


def _callables(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value)
    ]


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
