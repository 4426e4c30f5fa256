import pytest
import torch

from annotations_schema.errors import UsageError
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.tokenizer import num_parameters

SMALL = DiscriminatorConfig(channels=8, num_layers=3, norm_groups=4)


def test_default_is_the_patchgan_of_the_field():
    discriminator = PatchDiscriminator(DiscriminatorConfig())

    assert num_parameters(discriminator) / 1e6 == pytest.approx(2.77, abs=0.005)
    assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_score_sees_seventy_pixels():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 128, 128).requires_grad_()
    logits = without_norms(SMALL)(x)

    logits[0, 0, 7, 7].backward()

    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def without_norms(config):
    """The discriminator without norms, which would let a score see the whole image."""
    discriminator = PatchDiscriminator(config)
    discriminator.main = torch.nn.Sequential(
        *(layer for layer in discriminator.main if not isinstance(layer, torch.nn.GroupNorm))
    )
    return discriminator


def test_with_group_norm_an_image_is_judged_for_itself():
    discriminator = PatchDiscriminator(SMALL)
    x = torch.rand(4, 3, 64, 64)

    together, alone = discriminator(x)[:1], discriminator(x[:1])

    torch.testing.assert_close(together, alone)


def test_batch_norm_lets_images_see_each_other():
    discriminator = PatchDiscriminator(DiscriminatorConfig(channels=8, norm="batch"))
    x = torch.rand(4, 3, 64, 64)

    assert not torch.allclose(discriminator(x)[:1], discriminator(x[:1]), atol=1e-3)


def test_first_scores_are_near_zero():
    torch.manual_seed(0)

    logits = PatchDiscriminator(SMALL)(torch.rand(2, 3, 64, 64) * 2 - 1)

    assert logits.abs().mean() < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, r"norm 'layer' must be group or batch"),
        ({"num_layers": 0}, r"num_layers 0 must be at least 1"),
        ({"channels": 12, "norm_groups": 16}, r"norm_groups 16 must divide 24"),
    ],
    ids=["norm", "layers", "groups"],
)
def test_impossible_configuration_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        DiscriminatorConfig(**options)
