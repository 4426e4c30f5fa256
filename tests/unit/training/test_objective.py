import pytest
import torch

from annotations_schema.errors import UsageError
from training.data.batch import RegionBatch
from training.losses.objective import (
    FrozenNets,
    ObjectiveConfig,
    discriminator_objective,
    generator_objective,
)
from training.models.tokenizer import TokenizerOutput

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
)
ALL = ObjectiveConfig(
    perceptual_weight=2.0,
    commitment_weight=3.0,
    adversarial_weight=0.5,
    text_weight=10.0,
    face_weight=20.0,
    banner_size=(4, 4),
)


def output(x_hat):
    none = torch.zeros(1)
    return TokenizerOutput(x_hat, none, none, torch.tensor(0.125))


def terms(config, *, nets=NETS, discriminator=lambda x: 4 * x, step=0, x_hat=None):
    x_hat = torch.full((1, 3, 8, 8), 0.5) if x_hat is None else x_hat
    return generator_objective(
        config,
        x=torch.zeros(1, 3, 8, 8),
        output=output(x_hat),
        regions=REGIONS,
        nets=nets,
        discriminator=discriminator,
        step=step,
    )


def test_total_is_the_weighted_sum_of_the_terms_by_hand():
    result = terms(ALL)

    values = {name: value.item() for name, value in result._asdict().items() if name != "total"}
    assert values == pytest.approx(
        {
            "reconstruction": 0.5,
            "perceptual": 0.25,
            "commitment": 0.125,
            "adversarial": -2.0,
            "text": 0.5 * 1.5,
            "face": 0.25 * 3.0,
        }
    )
    expected = 0.5 + 2 * 0.25 + 3 * 0.125 - 0.5 * 2 + 10 * 0.75 + 20 * 0.75
    assert result.total.item() == pytest.approx(expected)


def test_only_the_total_has_a_graph():
    result = terms(ALL, x_hat=torch.full((1, 3, 8, 8), 0.5, requires_grad=True))

    assert result.total.requires_grad
    assert not any(value.requires_grad for value in result[1:])


def test_terms_of_weight_zero_are_not_computed():
    def never(*_):
        raise AssertionError("a term of weight 0 was computed")

    config = ObjectiveConfig(
        perceptual_weight=0, commitment_weight=0, adversarial_weight=0, text_weight=0, face_weight=0
    )

    result = terms(config, nets=FrozenNets(never, never, never), discriminator=never)

    assert result.total.item() == result.reconstruction.item() == 0.5
    assert result.text.item() == result.face.item() == 0.0


def test_generator_meets_the_discriminator_at_its_start():
    config = ObjectiveConfig(perceptual_weight=0, adversarial_weight=0.5, adversarial_start=10)

    before, after = terms(config, step=9), terms(config, step=10)

    assert before.adversarial.item() == 0.0
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


def test_discriminator_objective_trains_it_on_detached_reconstructions():
    scale = torch.tensor(1.0, requires_grad=True)
    x = torch.full((1, 3, 2, 2), 0.5)
    x_hat = torch.full((1, 3, 2, 2), -0.25, requires_grad=True)

    result = discriminator_objective(lambda images: scale * images, x, x_hat)
    result.total.backward()

    assert result.total.item() == pytest.approx((0.5 + 0.75) / 2)
    assert (result.logits_real.item(), result.logits_fake.item()) == (0.5, -0.25)
    assert scale.grad < 0
    assert x_hat.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_weight": -1.0}, r"text_weight -1\.0 must be at least 0"),
        ({"face_weight": float("nan")}, r"face_weight nan must be at least 0"),
        (
            {"discriminator_start": 3},
            r"discriminator_start 3 must not be after adversarial_start 0",
        ),
    ],
    ids=["negative", "not a number", "order"],
)
def test_impossible_configuration_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ObjectiveConfig(**options)
