"""One optimizer step: nothing waits for the device, nothing moves once a number was not finite."""

import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training_micro import REGIONS, micro, three_phases
from training.config import FrozenNetsConfig, Phase
from training.data.batch import Batch, RegionBatch
from training.distributed import Ranks
from training.finite import NonFiniteError
from training.losses.objective import FrozenNets
from training.models.frozen import onnx_ops
from training.setup import load_frozen_nets
from training.state import initial_state
from training.step import learning_rate_share, optimize, set_trainable
from training.typed_config import with_overrides

CPU = torch.device("cpu")
EVERYTHING = replace(
    REGIONS, perceptual_weight=0.1, adaptive=True, lecam_weight=0.01, reconstruction="l2"
)
ADVERSARIAL = replace(REGIONS, text_weight=0.0, face_weight=0.0, lecam_weight=0.01)


def random_batch(seed, device="cpu", names="ab"):
    """Two images with two words and a face."""
    generator = torch.Generator().manual_seed(seed)
    regions = RegionBatch(
        text_boxes=torch.tensor([[2.0, 3.0, 20.0, 9.0], [4.0, 12.0, 30.0, 20.0]]),
        text_image=torch.tensor([0, 1]),
        text_weight=torch.tensor([0.1, 0.2]),
        face_theta=torch.tensor([[[0.5, 0.0, 0.1], [0.0, 0.5, 0.1]]]),
        face_image=torch.tensor([1]),
        face_weight=torch.tensor([0.3]),
    )
    images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    return Batch(images, regions, tuple(names)).to(device)


def with_infinity(batch):
    images = batch.images.clone()
    images[0, 0, 0, 0] = float("inf")
    return batch._replace(images=images)


def config_of(objective, **settings):
    nets = FrozenNetsConfig(perceptual_layers=("relu1_2", "relu2_2"))
    return replace(micro(Phase(name="base", steps=99, objective=objective)), nets=nets, **settings)


def everything_that_moves(state):
    """Weights, moments, codebook, average and anchors, copied."""
    parts = {
        "tokenizer": state.tokenizer.state_dict(),
        "average": state.ema.module.state_dict(),
        "discriminator": state.discriminator.state_dict(),
        "anchors": {"": state.logit_anchors},
    }
    for name in ("optimizer", "discriminator_optimizer"):
        for i, moments in getattr(state, name).state_dict()["state"].items():
            parts[f"{name} {i}"] = moments
    return {f"{p} {n}": v.clone() for p, part in parts.items() for n, v in part.items()}


# What makes a host wait for a GPU: operators that return a value or a shape that depends on values,
# and methods that hand values to Python.
WAITING_OPERATORS = {
    "_local_scalar_dense", "is_nonzero", "nonzero", "bincount", "masked_select", "equal",
    "unique_dim", "_unique2", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
WAITING_METHODS = {"item", "tolist", "numpy", "cpu", "__array__"}


class WaitingOperators(TorchDispatchMode):
    """Counts them, those inside a backward pass too."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        picks = args[1] if name in ("index", "index_put", "index_put_") else ()
        has_mask = any(pick is not None and pick.dtype == torch.bool for pick in picks)
        self.seen[name] += name in WAITING_OPERATORS or has_mask
        return function(*args, **kwargs or {})


class WaitingMethods(TorchFunctionMode):
    """Counts them; `tolist` reads memory without any operator."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        # The shapes and axes that an ONNX graph computes with lie on the CPU on every device.
        is_shape = sys._getframe(1).f_globals["__name__"] == onnx_ops.__name__
        self.seen[name] += name in WAITING_METHODS and not is_shape
        return function(*args, **kwargs or {})


def host_reads(run):
    with WaitingOperators() as operators, WaitingMethods() as methods:
        run()
    return +(operators.seen + methods.seen), len(operators.seen)


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda t: t.sum().item(), id="item"),
        pytest.param(lambda t: bool(t.any()), id="bool"),
        pytest.param(lambda t: t.tolist(), id="tolist"),
        pytest.param(lambda t: t[t > 1], id="mask"),
        pytest.param(lambda t: t.long().bincount(), id="bincount"),
    ],
)
def test_the_count_of_host_reads_sees_them(read):
    assert host_reads(lambda: read(torch.arange(3.0)))[0].total() >= 1


def test_a_step_with_every_loss_reads_nothing_back():
    config = config_of(EVERYTHING)
    state, nets = initial_state(config, CPU), load_frozen_nets(config, CPU)
    batches = [random_batch(0), random_batch(1)]
    values = optimize(state, config, nets, batches)  # moments are made
    assert all(values[name] != 0 for name in ("perceptual", "text", "face", "lecam"))
    reads, num_operators = host_reads(lambda: optimize(state, config, nets, batches))
    assert num_operators > 20
    assert reads == Counter()


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits_for_it():
    device = torch.device("cuda")
    config = config_of(EVERYTHING, precision="bfloat16")
    state, nets = initial_state(config, device), load_frozen_nets(config, device)
    batches = [random_batch(0, device), random_batch(1, device)]
    for _ in range(2):  # what is compiled, tuned and allocated once
        optimize(state, config, nets, batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimize(state, config, nets, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    state.gate.check(Ranks())


@pytest.mark.parametrize("place", [0, 1], ids=["first-micro-batch", "second-micro-batch"])
def test_after_a_number_that_is_not_finite_nothing_moves_any_more(place):
    config = config_of(ADVERSARIAL)
    state = initial_state(config, CPU)
    good = [random_batch(0, names="ab"), random_batch(1, names="cd")]
    bad = [with_infinity(b) if i == place else b for i, b in enumerate(good)]
    optimize(state, config, FrozenNets(), good)
    before = everything_that_moves(state)
    for step, batches in ((1, bad), (2, good)):
        state.step = step
        optimize(state, config, FrozenNets(), batches)
    after = everything_that_moves(state)
    assert after.keys() == before.keys()
    assert [n for n in after if not torch.equal(after[n], before[n])] == []
    with pytest.raises(
        NonFiniteError, match=r"step 1 of phase base: .*reconstruction = "
    ) as caught:
        state.gate.check(Ranks())
    message = str(caught.value)
    assert "\n" not in message
    # The terms of its micro batch say which images it was, the gradient's norm says nothing.
    assert f"; images {', '.join(('ab', 'cd')[place])}; no weight" in message


def test_finite_steps_move_everything():
    config = config_of(ADVERSARIAL)
    state = initial_state(config, CPU)
    optimize(state, config, FrozenNets(), [random_batch(0)])
    before = everything_that_moves(state)
    optimize(state, config, FrozenNets(), [random_batch(1)])
    after = everything_that_moves(state)
    kinds = {n.split()[0] for n in after if not torch.equal(after[n], before[n])}
    assert kinds == {
        "tokenizer", "average", "discriminator", "anchors", "optimizer", "discriminator_optimizer",
    }  # fmt: skip
    state.gate.check(Ranks())


def test_a_gradient_that_is_not_finite_closes_the_gate_too():
    config = config_of(ADVERSARIAL)
    state = initial_state(config, CPU)
    state.tokenizer.decoder.conv_in.weight.register_hook(lambda g: g * float("nan"))
    optimize(state, config, FrozenNets(), [random_batch(0)])
    with pytest.raises(NonFiniteError, match=r"gradient_norm = nan; images a, b; no weight"):
        state.gate.check(Ranks())


def test_the_decoder_phase_keeps_no_graph_of_the_encoder():
    config = three_phases()
    state = initial_state(config, CPU)
    set_trainable(state.tokenizer, config.phases[2])
    modes = {}
    for name in ("encoder", "quantize"):
        getattr(state.tokenizer, name).register_forward_pre_hook(
            lambda *_, name=name: modes.update({name: torch.is_grad_enabled()})
        )
    # A checkpointed level would otherwise keep what enters its blocks, frozen or not.
    output = state.tokenizer(random_batch(0).images)
    assert not output.z_q.requires_grad
    assert not output.commitment.requires_grad
    assert output.x_hat.requires_grad
    assert modes == {"encoder": False, "quantize": False}
    assert state.tokenizer.quantize.take_statistics(torch.Generator()) is None


def test_random_numbers_of_a_step_depend_on_nothing_before_it():
    config = config_of(ADVERSARIAL)
    drawn = []
    for before in (1, 2):
        torch.manual_seed(before)
        optimize(initial_state(config, CPU), config, FrozenNets(), [random_batch(0)])
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_learning_rates_rise_then_follow_a_cosine():
    config = with_overrides(
        micro(), ["phases.base.steps=102", "optimizer.warmup_steps=2", "optimizer.final_rate=0.1"]
    )
    shares = [learning_rate_share(config, step) for step in range(102)]
    assert shares[:3] == pytest.approx([1 / 3, 2 / 3, 1.0], abs=1e-3)
    assert shares[52] == pytest.approx(0.55, abs=1e-3)
    assert shares[-1] == pytest.approx(0.1, abs=1e-3)
    constant = with_overrides(config, ["optimizer.warmup_steps=0", "optimizer.final_rate=1"])
    assert {learning_rate_share(constant, step) for step in range(102)} == {1.0}
