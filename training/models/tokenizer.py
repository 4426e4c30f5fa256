"""The image tokenizer: encoder, quantizer, decoder, and its named shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from annotations_schema.errors import UsageError
from training.models.autoencoder import AutoencoderConfig, Decoder, Encoder, initialise
from training.models.quantizer import EmaQuantizer, QuantizerConfig, QuantizerOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Shape of a tokenizer."""

    autoencoder: AutoencoderConfig
    """Encoder and decoder."""
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Codebook."""


CONFIGS: Mapping[str, TokenizerConfig] = {
    # InsightTok `default`: 425.977M parameters with its codebook, 16 px per token.
    "insight_426m": TokenizerConfig(
        autoencoder=AutoencoderConfig(channels=256, num_res_blocks=4),
    ),
    # InsightTok `small`, the shape of SEED-Voken's IBQ.
    "insight_111m": TokenizerConfig(
        autoencoder=AutoencoderConfig(channels=128, num_res_blocks=4),
    ),
    # LlamaGen's VQ-16: codes of 8 dimensions.
    "llamagen_72m": TokenizerConfig(
        autoencoder=AutoencoderConfig(channels=128, num_res_blocks=2),
        quantizer=QuantizerConfig(codebook_dim=8),
    ),
    # For CPUs. 4 px per token, since a stroke of small text is 2 to 4 px wide and 8 px lose it. Few
    # channels at full resolution, where nearly all the time goes; no attention, whose cost would
    # grow with the square of 1/16 of the pixels.
    "tiny": TokenizerConfig(
        autoencoder=AutoencoderConfig(
            channels=16,
            channel_multipliers=(1, 1, 4),
            num_res_blocks=1,
            attention_levels=(),
            middle_attention=False,
            z_channels=64,
            norm_groups=8,
        ),
        quantizer=QuantizerConfig(codebook_size=1024, codebook_dim=32),
    ),
}
"""Named shapes."""


class TokenizerOutput(NamedTuple):
    """What the tokenizer makes of x.

    x_hat: (B, 3, H, W), about [-1, 1].
    z_q: (B, d, h, w) float32, straight-through.
    indices: (B, h, w) int64.
    commitment: 0-d.
    last_features: (B, C, H, W), input of the decoder's last convolution, detached: what adaptive
        loss weights are measured with.
    """

    x_hat: Tensor
    z_q: Tensor
    indices: Tensor
    commitment: Tensor
    last_features: Tensor


class Tokenizer(nn.Module):
    """(B, 3, H, W) RGB in [-1, 1] to tokens and back; H and W multiples of `downsampling`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        z_channels, dim = config.autoencoder.z_channels, config.quantizer.codebook_dim
        self.config = config
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(z_channels, dim, 1)
        self.quantize = EmaQuantizer(config.quantizer)
        self.post_quant_conv = nn.Conv2d(dim, z_channels, 1)
        self.decoder = Decoder(config.autoencoder)
        for part in (self.encoder, self.quant_conv, self.post_quant_conv, self.decoder):
            initialise(part)

    @property
    def downsampling(self) -> int:
        """Pixels per token along each axis."""
        return self.config.autoencoder.downsampling

    def encode(self, x: Tensor) -> QuantizerOutput:
        """Codes, indices and commitment loss of images.

        Raises:
            UsageError: x is not (B, 3, H, W) with H and W multiples of `downsampling`.
        """
        self._check_images(x)
        output: QuantizerOutput = self.quantize(self.quant_conv(self.encoder(x)))
        return output

    def decode(self, z_q: Tensor) -> Tensor:
        """(B, d, h, w) codes -> (B, 3, H, W) images, about [-1, 1]."""
        x_hat: Tensor = self.decoder(self.post_quant_conv(z_q))
        return x_hat

    def decode_indices(self, indices: Tensor) -> Tensor:
        """(B, h, w) int64 in [0, codebook_size) -> (B, 3, H, W) images."""
        return self.decode(self.quantize.codes_at(indices))

    def forward(self, x: Tensor) -> TokenizerOutput:
        """Round trip of images; raises as `encode`. A frozen encoder leaves no graph behind it."""
        is_encoder_trained = self.quant_conv.weight.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and is_encoder_trained):
            z_q, indices, commitment = self.encode(x)
        features = self.decoder.features(self.post_quant_conv(z_q))
        x_hat = self.decoder.conv_out(features)
        return TokenizerOutput(x_hat, z_q, indices, commitment, features.detach())

    def update_codebook(self, generator: torch.Generator) -> None:
        """Moves the codebook after an optimizer step on one process (see `EmaQuantizer`)."""
        self.quantize.update_codebook(self.quantize.take_statistics(generator))

    def _check_images(self, x: Tensor) -> None:
        f = self.downsampling
        if x.ndim != 4 or x.shape[1] != 3:
            raise UsageError(
                f"images of shape {tuple(x.shape)}: expected (B, 3, H, W), RGB in [-1, 1]"
            )
        if x.shape[2] % f or x.shape[3] % f or not x.numel():
            raise UsageError(
                f"images of {x.shape[2]} x {x.shape[3]} px: height and width must be multiples of "
                f"{f}, pad or crop them"
            )


def num_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not, codebook included."""
    return sum(parameter.numel() for parameter in module.parameters())
