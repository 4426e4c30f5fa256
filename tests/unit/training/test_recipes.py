"""Recipes are what the paper says where it says something, and tiny differs in the losses alone."""

from dataclasses import replace

import pytest

from training.models.tokenizer import CONFIGS
from training.recipes import RECIPES, tiny, tiny_regions

PAPER = ("insight_426m", "insight_111m", "llamagen_72m")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_itself_and_says_what_it_is(name):
    assert RECIPES[name]().recipe == name
    assert RECIPES[name].__doc__


@pytest.mark.parametrize("name", PAPER)
def test_the_three_phases_of_the_paper(name):
    base, regions, decoder = RECIPES[name]().phases
    assert [p.steps for p in (base, regions, decoder)] == [200_000, 40_000, 40_000]
    assert base.objective.text_weight == base.objective.face_weight == 0
    for phase in (regions, decoder):
        assert phase.objective.text_weight > 0
        assert phase.objective.face_weight > 0
    for phase in (base, regions, decoder):
        assert phase.objective.perceptual_weight > 0
        assert phase.objective.adversarial_weight > 0
    assert base.train_encoder
    assert regions.train_codebook
    assert not decoder.train_encoder
    assert not decoder.train_codebook


@pytest.mark.parametrize("name", PAPER)
def test_the_generator_never_meets_an_untrained_discriminator(name):
    base = RECIPES[name]().phases[0].objective
    assert 0 < base.discriminator_start < base.adversarial_start


@pytest.mark.parametrize("name", PAPER)
def test_an_optimizer_step_sees_128_images(name):
    config = RECIPES[name]()
    assert config.data.stream.batch_size == 128
    assert 128 % config.machine.micro_batch == 0


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_of_the_paper_trains_the_network_of_its_name(name):
    assert RECIPES[name]().tokenizer == CONFIGS[name]


def test_tiny_regions_is_tiny_with_region_losses_in_its_last_phase():
    plain, regions = tiny(), tiny_regions()
    assert plain.total_steps == regions.total_steps
    assert regions.phases[-1].objective.text_weight > 0
    assert regions.phases[-1].objective.face_weight > 0
    without = replace(
        regions.phases[-1],
        objective=replace(regions.phases[-1].objective, text_weight=0.0, face_weight=0.0),
    )
    assert replace(regions, recipe="tiny", phases=(*regions.phases[:-1], without)) == plain


def test_tiny_has_no_discriminator():
    assert not tiny().uses_discriminator
    assert not tiny_regions().uses_discriminator
