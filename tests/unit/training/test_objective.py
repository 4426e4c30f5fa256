from dataclasses import replace

import pytest
import torch
from torch import nn

from annotations_schema.errors import UsageError
from tests.training_micro import TOKENIZER
from training.data.batch import RegionBatch
from training.losses.adversarial import generator_loss
from training.losses.face import face_loss
from training.losses.gradients import inject
from training.losses.objective import (
    FrozenNets,
    discriminator_objective,
    generator_objective,
    image_losses,
)
from training.losses.objective_config import ObjectiveConfig
from training.losses.text import text_loss
from training.models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.models.tokenizer import Tokenizer, TokenizerOutput

REGIONS = RegionBatch(
    text_boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]]),
    text_image=torch.tensor([0]),
    text_weight=torch.tensor([0.5]),
    face_theta=0.5 * torch.eye(2, 3)[None],
    face_image=torch.tensor([0]),
    face_weight=torch.tensor([0.25]),
)
NETS = FrozenNets(
    perceptual=lambda x, x_hat: (x - x_hat).square().mean(),
    text=lambda crops: (crops,),
    face=lambda crops: (2 * crops,),
    global_text=lambda x, x_hat: (x_hat - x).pow(3).mean(),
)
ALL = ObjectiveConfig(
    reconstruction_weight=4.0,
    perceptual_weight=2.0,
    commitment_weight=3.0,
    adversarial_weight=0.5,
    text_weight=10.0,
    face_weight=20.0,
    global_text_weight=8.0,
    banner_size=(4, 4),
)


NOTHING = ObjectiveConfig(
    perceptual_weight=0, commitment_weight=0, adversarial_weight=0, text_weight=0, face_weight=0
)


def output(x_hat, commitment=None):
    none = torch.zeros(1)
    commitment = torch.tensor(0.125) if commitment is None else commitment
    return TokenizerOutput(x_hat, none, none, commitment, none)


CONSTANT = output(torch.full((1, 3, 8, 8), 0.5))


def terms(config, *, nets=NETS, discriminator=lambda x: 4 * x, step=0, output=CONSTANT):
    return generator_objective(
        config,
        x=torch.zeros_like(output.x_hat),
        output=output,
        regions=REGIONS,
        nets=nets,
        discriminator=discriminator,
        step=step,
    )


def test_total_is_the_weighted_sum_of_the_terms_by_hand():
    result = terms(ALL)

    values = {name: value.item() for name, value in result.values.items()}
    assert values == pytest.approx(
        {
            "reconstruction": 0.5,
            "perceptual": 0.25,
            "commitment": 0.125,
            "adversarial": -2.0,
            "text": 0.5 * 1.5,
            "face": 0.25 * 3.0,
            "global_text": 0.125,
        }
    )
    expected = 4 * 0.5 + 2 * 0.25 + 3 * 0.125 - 0.5 * 2 + 10 * 0.75 + 20 * 0.75 + 8 * 0.125
    assert result.total.item() == pytest.approx(expected)
    assert result.commitment.item() == pytest.approx(3 * 0.125)


def test_the_gradient_is_that_of_the_total_and_only_the_commitment_has_a_graph():
    x_hat = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    result = terms(ALL, output=output(x_hat, torch.tensor(0.125, requires_grad=True)))

    whole = (
        4 * (x_hat - 0).abs().mean()
        + 2 * x_hat.square().mean()
        + 0.5 * -(4 * x_hat).mean()
        + 10 * text_loss(0 * x_hat, x_hat, REGIONS, NETS.text, size=(4, 4))
        + 20 * face_loss(0 * x_hat, x_hat, REGIONS, NETS.face)
        + 8 * x_hat.pow(3).mean()
    )
    torch.testing.assert_close(result.gradient, torch.autograd.grad(whole, x_hat)[0])
    assert result.commitment.requires_grad
    assert not any(v.requires_grad for v in (result.gradient, result.total))
    assert not any(v.requires_grad for v in result.values.values())


def test_terms_of_weight_zero_are_not_computed():
    def never(*_):
        raise AssertionError("a term of weight 0 was computed")

    nets = FrozenNets(never, never, never, never)

    alone = terms(NOTHING, nets=nets, discriminator=never)
    nothing = terms(replace(NOTHING, reconstruction_weight=0.0), nets=nets, discriminator=never)

    assert alone.total.item() == alone.values["reconstruction"].item() == 0.5
    assert alone.values["text"].item() == alone.values["face"].item() == 0.0
    assert nothing.total.item() == nothing.gradient.abs().max().item() == 0.0


def test_banner_settings_reach_the_text_loss():
    torch.manual_seed(0)
    x_hat = torch.rand(1, 3, 8, 8)
    config = replace(NOTHING, text_weight=1.0, banner_size=(2, 2))
    settings = [
        config,
        replace(config, banner_sampling="bilinear"),
        replace(config, banner_size=(3, 3)),
    ]

    found = [terms(c, output=output(x_hat)).values["text"].item() for c in settings]

    assert len(set(found)) == 3


def test_the_share_of_regions_reaches_both_region_losses():
    x_hat = torch.zeros(1, 3, 8, 8)
    x_hat[:, :, :4, :4] = 0.5  # only the first of two regions of a kind is wrong
    far = torch.tensor([[[0.25, 0, 0.7], [0, 0.25, 0.7]]])
    near = torch.tensor([[[0.25, 0, -0.5], [0, 0.25, -0.5]]])
    two = RegionBatch(
        text_boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0]]),
        text_image=torch.tensor([0, 0]),
        text_weight=torch.tensor([0.1, 0.7]),
        face_theta=torch.cat([near, far]),
        face_image=torch.tensor([0, 0]),
        face_weight=torch.tensor([0.1, 0.3]),
    )
    by_area = replace(ALL, region_weighting="area")
    area, equal = (
        image_losses(config, x=0 * x_hat, x_hat=x_hat, regions=two, nets=NETS, discriminator=None)
        for config in (by_area, replace(ALL, region_weighting="equal"))
    )

    torch.testing.assert_close(equal["text"]() / area["text"](), torch.tensor(4.0))
    torch.testing.assert_close(equal["face"]() / area["face"](), torch.tensor(2.0))


def test_generator_meets_the_discriminator_at_its_start():
    config = ObjectiveConfig(perceptual_weight=0, adversarial_weight=0.5, adversarial_start=10)

    before, after = terms(config, step=9), terms(config, step=10)

    assert before.values["adversarial"].item() == 0.0
    assert after.total.item() == pytest.approx(before.total.item() - 0.5 * 2)


def test_discriminator_may_learn_before_the_generator_meets_it():
    config = ObjectiveConfig(adversarial_start=10, discriminator_start=5)

    assert [config.trains_discriminator_at(step) for step in (4, 5)] == [False, True]
    assert not ObjectiveConfig(adversarial_weight=0).trains_discriminator_at(100)


@pytest.mark.parametrize("missing", ["perceptual", "text", "face"])
def test_a_weight_without_a_network_is_refused_by_name(missing):
    with pytest.raises(UsageError, match=rf"{missing}_weight is above 0 but there is no {missing}"):
        terms(ALL, nets=NETS._replace(**{missing: None}))


def test_an_adversarial_weight_without_a_discriminator_is_refused():
    with pytest.raises(UsageError, match=r"adversarial_weight is above 0"):
        terms(ALL, discriminator=None)


class Counted(nn.Module):
    """A small network that counts how often images enter it and how often gradients leave it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forwards, self.backwards = net, 0, 0

    def forward(self, images):
        self.forwards += 1
        if images.requires_grad:
            images = images.clone()
            images.register_hook(self._count)
        return self.net(images)

    def _count(self, gradient):
        self.backwards += 1


class Step:
    """A real tokenizer's reconstruction, a perceptual net and a discriminator."""

    def __init__(self, dtype=torch.float64):
        torch.manual_seed(0)
        self.tokenizer = Tokenizer(TOKENIZER).to(dtype).train()
        small = DiscriminatorConfig(channels=8, num_layers=2, norm_groups=8)
        self.discriminator = Counted(PatchDiscriminator(small).to(dtype).requires_grad_(False))
        features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3))
        self.features = Counted(features.to(dtype).requires_grad_(False))
        self.nets = NETS._replace(perceptual=self.perceptual)
        self.x = torch.rand(2, 3, 16, 16, dtype=dtype) * 2 - 1
        # The quantizer is float32 always, so the decoder alone can show more digits than that.
        self.z_q = torch.randn(2, 8, 8, 8, dtype=dtype)

    def perceptual(self, x, x_hat):
        return (self.features(x_hat) - self.features(x).detach()).square().mean()

    def output(self, *, is_narrow=False):
        with torch.autocast("cpu", torch.bfloat16, is_narrow):
            features = self.tokenizer.decoder.features(self.tokenizer.post_quant_conv(self.z_q))
            x_hat = self.tokenizer.decoder.conv_out(features)
        return output(x_hat)._replace(last_features=features.detach())

    def objective(self, config, output, *, is_narrow=False):
        with torch.autocast("cpu", torch.bfloat16, is_narrow):
            return generator_objective(
                config,
                x=self.x,
                output=output,
                regions=REGIONS,
                nets=self.nets,
                discriminator=self.discriminator,
                step=0,
            )

    def retained(self, config, x_hat):
        """The adaptive weight as usually written: two passes through a graph that is kept."""
        likelihood = config.reconstruction_weight * (x_hat - self.x).abs().mean()
        likelihood = likelihood + config.perceptual_weight * self.perceptual(self.x, x_hat)
        adversarial = generator_loss(self.discriminator(x_hat))
        weight = self.tokenizer.decoder.conv_out.weight
        norms = [
            torch.autograd.grad(loss, weight, retain_graph=True)[0].norm()
            for loss in (likelihood, adversarial)
        ]
        measured = (norms[0] / (norms[1] + 1e-4)).clamp(max=config.adaptive_max).detach()
        chosen = config.adversarial_weight * measured
        return chosen, likelihood + chosen * adversarial


ADAPTIVE = replace(NOTHING, perceptual_weight=1.0, adversarial_weight=0.8, adaptive=True)


def gradients(tokenizer):
    return [p.grad for p in tokenizer.decoder.parameters()]


def test_adaptive_weight_and_all_gradients_equal_those_of_the_retained_graph():
    step = Step()
    other = step.output()
    weight, loss = step.retained(ADAPTIVE, other.x_hat)
    loss.backward()
    expected = [g.clone() for g in gradients(step.tokenizer)]
    step.tokenizer.zero_grad()

    result = step.objective(ADAPTIVE, mine := step.output())
    inject(mine.x_hat, result.gradient, result.commitment)

    assert weight.item() > 0.01
    torch.testing.assert_close(
        result.values["adversarial_weight"], weight, rtol=1e-6, atol=0, check_dtype=False
    )
    assert result.total.item() == pytest.approx(loss.item(), rel=1e-6)
    for got, want in zip(gradients(step.tokenizer), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_adaptive_weight_costs_no_pass_through_perceptual_net_or_discriminator():
    counts = []
    for config in (replace(ADAPTIVE, adaptive=False), ADAPTIVE):
        step = Step()
        step.objective(config, step.output())
        nets = (step.discriminator, step.features)
        counts.append([(net.forwards, net.backwards) for net in nets])

    assert counts[0] == counts[1] == [(1, 1), (2, 1)]


def test_adaptive_weight_is_bounded_and_ignores_text_and_face_loss():
    step = Step()
    mine = step.output()
    free = step.objective(ADAPTIVE, mine).values["adversarial_weight"]

    bounded = step.objective(replace(ADAPTIVE, adaptive_max=1e-3), mine)
    regions = step.objective(replace(ADAPTIVE, text_weight=9.0, face_weight=9.0), mine)

    assert bounded.values["adversarial_weight"].item() == pytest.approx(0.8e-3)
    assert torch.equal(regions.values["adversarial_weight"], free)
    fixed = step.objective(replace(ADAPTIVE, adaptive=False), mine)
    assert "adversarial_weight" not in fixed.values


def test_adaptive_weight_under_autocast_is_that_of_float32_but_for_rounding():
    step = Step(torch.float32)
    exact = step.objective(ADAPTIVE, step.output())

    output = step.output(is_narrow=True)
    narrow = step.objective(ADAPTIVE, output, is_narrow=True)

    assert output.x_hat.dtype == narrow.gradient.dtype == torch.bfloat16
    torch.testing.assert_close(
        narrow.values["adversarial_weight"],
        exact.values["adversarial_weight"],
        rtol=0.03,
        atol=0,
    )


def test_discriminator_objective_trains_it_on_detached_reconstructions():
    scale = torch.tensor(1.0, requires_grad=True)
    x = torch.full((1, 3, 2, 2), 0.5)
    x_hat = torch.full((1, 3, 2, 2), -0.25, requires_grad=True)

    result = discriminator_objective(
        lambda images: scale * images, x, x_hat, ObjectiveConfig(), torch.zeros(2)
    )
    result.total.backward()

    assert result.total.item() == pytest.approx((0.5 + 0.75) / 2)
    assert (result.logits_real.item(), result.logits_fake.item()) == (0.5, -0.25)
    assert scale.grad < 0
    assert x_hat.grad is None


def test_lecam_adds_its_weighted_penalty_to_the_discriminators_loss():
    x, x_hat = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), -0.25)
    anchors = torch.tensor([0.75, -0.5])

    plain, with_lecam = (
        discriminator_objective(
            lambda images: images, x, x_hat, ObjectiveConfig(lecam_weight=weight), anchors
        )
        for weight in (0.0, 0.1)
    )

    assert plain.lecam.item() == 0.0
    # Real logits 0.5 lie 1 above the anchor of made ones, made logits 1 below that of real ones.
    assert with_lecam.lecam.item() == pytest.approx(2.0)
    assert with_lecam.total.item() == pytest.approx(plain.total.item() + 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_weight": -1.0}, r"text_weight -1\.0 must be at least 0"),
        ({"face_weight": float("nan")}, r"face_weight nan must be at least 0"),
        ({"reconstruction_weight": float("inf")}, r"reconstruction_weight inf .* finite"),
        ({"lecam_weight": -0.1}, r"lecam_weight -0\.1 must be at least 0"),
        ({"reconstruction": "l3"}, r"reconstruction 'l3' must be l1 or l2"),
        ({"generator_loss": "wgan"}, r"generator_loss 'wgan' must be hinge or non_saturating"),
        ({"banner_sampling": "best"}, r"banner_sampling 'best' must be antialiased or bilinear"),
        ({"channel_reduction": "max"}, r"channel_reduction 'max' must be sum or mean"),
        ({"lecam_decay": 1.0}, r"lecam_decay 1\.0 must be in \[0, 1\)"),
        ({"adaptive_max": 0.0}, r"adaptive_max 0\.0 must be above 0"),
        (
            {"lecam_weight": 0.1, "adversarial_weight": 0.0},
            r"lecam_weight 0\.1 regularises .* adversarial_weight is 0",
        ),
        ({"adaptive": True, "adversarial_weight": 0.0}, r"adaptive weighs .*_weight is 0: raise"),
        (
            {"adaptive": True, "reconstruction_weight": 0.0, "perceptual_weight": 0.0},
            r"adaptive compares .* both weights are 0",
        ),
        (
            {"discriminator_start": 3},
            r"discriminator_start 3 must not be after adversarial_start 0",
        ),
    ],
)
def test_impossible_configuration_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ObjectiveConfig(**options)
