"""Gradients at a detached reconstruction: taken term by term, weighed, injected in one pass.

Every image loss is a function of x_hat alone, so its gradient there is all that the tokenizer needs
of it. Taking it at once frees that loss's graph before the next loss is computed, and leaves the
weight of each gradient open until all are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from training.models.precision import at_least_float32

# Below this norm an adversarial gradient is not enlarged any more; taming-transformers' value.
_LEAST_NORM = 1e-4


def gradient_at(loss: Tensor, x_hat: Tensor) -> Tensor:
    """d loss / d x_hat, the shape of x_hat; zeros where the loss does not depend on it.

    The graph of the loss is freed. Outside of autocast, which would also narrow the backward passes
    of what was computed in float32.

    Args:
        loss: 0-d.
        x_hat: a leaf that the loss was computed from.
    """
    if not loss.requires_grad:
        return torch.zeros_like(x_hat)
    with torch.autocast(x_hat.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(loss, x_hat)
    return gradient


def last_layer_gradients(features: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Gradients of the last 3x3 convolution's weight, one for each of n gradients at its output.

    Args:
        features: (B, C, H, W), the input of that convolution, which pads by 1.
        gradients: n of (B, 3, H, W).

    Returns:
        (n, 3, C, 3, 3), at least float32; computed in the dtype of the features.
    """
    # One convolution of 3 n channels, so the features, by far the largest, are read once.
    outputs = torch.cat(list(gradients), 1).to(features.dtype)
    shape = (outputs.shape[1], features.shape[1], 3, 3)
    with torch.autocast(features.device.type, enabled=False):
        weights: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            features, shape, outputs, padding=1
        )
    return at_least_float32(weights).reshape(len(gradients), -1, *shape[1:])


def adaptive_weight(
    features: Tensor, likelihood: Tensor, adversarial: Tensor, largest: float
) -> Tensor:
    """||d L_nll / dW|| / (||d L_gan / dW|| + 1e-4), at most `largest`; 0-d, detached.

    W is the decoder's last weight (VQGAN, Esser et al. 2021, equation 7). Equal to differentiating
    both losses through the decoder's end with `retain_graph`, without doing so.

    Args:
        features: (B, C, H, W), the input of the decoder's last convolution.
        likelihood: (B, 3, H, W), gradient of L_nll at x_hat.
        adversarial: the same of L_gan.
        largest: bound.
    """
    weights = last_layer_gradients(features.detach(), (likelihood, adversarial))
    norms = torch.linalg.vector_norm(weights.flatten(1), dim=1)
    ratio: Tensor = norms[0] / (norms[1] + _LEAST_NORM)
    return ratio.clamp(max=largest)


def inject(x_hat: Tensor, gradient: Tensor, commitment: Tensor, share: float = 1.0) -> None:
    """One backward pass through the tokenizer, which adds share * dL to the gradients it holds.

    Args:
        x_hat: (B, 3, H, W) with graph.
        gradient: dL / dx_hat of everything but the commitment, the shape and dtype of x_hat.
        commitment: 0-d; without a graph where the encoder is frozen.
        share: of this micro batch in the optimizer step.
    """
    roots, seeds = [x_hat], [gradient * share]
    if commitment.requires_grad:
        roots.append(commitment)
        seeds.append(torch.full_like(commitment, share))
    torch.autograd.backward(roots, seeds)
