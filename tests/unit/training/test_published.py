"""The published layout both ways: the whole list of keys, shapes and types, and real files."""

import pytest
import torch

from annotations_schema import UsageError
from tests.training_micro import micro
from training.checkpoint import load_tokenizer, save_checkpoint
from training.cli import main
from training.export import export
from training.models.published import expected_shapes, published_state, tokenizer_of
from training.models.tokenizer import CONFIGS, Tokenizer
from training.state import checkpoint_of, initial_state
from training.typed_config import to_plain


def conv(name, channels_out, channels_in, side):
    yield f"{name}.weight", (channels_out, channels_in, side, side)
    yield f"{name}.bias", (channels_out,)


def norm(name, channels):
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def res_block(name, channels_in, channels_out):
    yield from norm(f"{name}.norm1", channels_in)
    yield from conv(f"{name}.conv1", channels_out, channels_in, 3)
    yield from norm(f"{name}.norm2", channels_out)
    yield from conv(f"{name}.conv2", channels_out, channels_out, 3)
    if channels_in != channels_out:
        yield from conv(f"{name}.nin_shortcut", channels_out, channels_in, 1)


def attention(name, channels):
    yield from norm(f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{part}", channels, channels, 1)


def middle(name, channels):
    yield from res_block(f"{name}.block_1", channels, channels)
    yield from attention(f"{name}.attn_1", channels)
    yield from res_block(f"{name}.block_2", channels, channels)


def published(channels):
    """Names and shapes of the published file, written out from its description alone."""
    widths = [channels * m for m in (1, 1, 2, 2, 4)]
    yield from conv("encoder.conv_in", widths[0], 3, 3)
    before = widths[0]
    for level, width in enumerate(widths):
        for block in range(4):
            yield from res_block(f"encoder.down.{level}.block.{block}", before, width)
            before = width
            if level == 4:
                yield from attention(f"encoder.down.4.attn.{block}", width)
        if level < 4:
            yield from conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    yield from middle("encoder.mid", before)
    yield from norm("encoder.norm_out", before)
    yield from conv("encoder.conv_out", 256, before, 3)
    yield from conv("quant_conv", 256, 256, 1)
    yield from conv("post_quant_conv", 256, 256, 1)
    yield from conv("decoder.conv_in", before, 256, 3)
    yield from middle("decoder.mid", before)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(5):
            yield from res_block(f"decoder.up.{level}.block.{block}", before, width)
            before = width
            if level == 4:
                yield from attention(f"decoder.up.4.attn.{block}", width)
        if level > 0:
            yield from conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    yield from norm("decoder.norm_out", before)
    yield from conv("decoder.conv_out", 3, before, 3)
    yield "quantize.embedding.weight", (16_384, 256)
    yield "quantize.embed_avg", (16_384, 256)
    yield "quantize.cluster_size", (16_384,)
    yield "quantize.codebook_used", (65_536,)


NETWORKS = pytest.mark.parametrize(
    ("name", "channels", "num_keys"), [("insight_426m", 256, 546), ("insight_111m", 128, 546)]
)


def synthetic(channels):
    """A state with every key of the published file, numbered; a tensor is one stored number."""
    return {
        name: torch.full((1,), float(i)).expand(shape)
        for i, (name, shape) in enumerate(published(channels))
    }


@NETWORKS
def test_the_published_file_loads(tmp_path, name, channels, num_keys):
    theirs = synthetic(channels)
    torch.save({"model": theirs}, tmp_path / "insight_tok.pt")

    tokenizer = load_tokenizer(tmp_path / "insight_tok.pt")

    assert tokenizer.config == CONFIGS[name]
    ours = tokenizer.state_dict()
    assert len(ours) == len(theirs) == num_keys
    for key, weight in theirs.items():
        assert ours[key].shape == weight.shape, key
        first = (0,) * weight.ndim
        assert ours[key][first] == weight[first], key
    assert not tokenizer.quantize.embedding.weight.requires_grad
    assert tokenizer.encoder.conv_in.weight.requires_grad


@NETWORKS
def test_ours_has_exactly_the_published_names_shapes_and_types(name, channels, num_keys):
    with torch.device("meta"):
        exported = published_state(Tokenizer(CONFIGS[name]).state_dict())

    assert {key: tuple(w.shape) for key, w in exported.items()} == dict(published(channels))
    assert {w.dtype for w in exported.values()} == {torch.float32}
    assert len(exported) == num_keys


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint of `tiny` whose averaged weights differ from the trained ones."""
    torch.manual_seed(0)
    trained, averaged = Tokenizer(CONFIGS["tiny"]), Tokenizer(CONFIGS["tiny"])
    trained.to(memory_format=torch.channels_last)
    averaged.quantize.codebook_used[0] = 7
    config = {"tokenizer": to_plain(CONFIGS["tiny"])}
    ema = {"module": averaged.state_dict(), "num_updates": 1}
    state = {"model": trained.state_dict(), "ema": ema, "config": config}
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    return tmp_path / "checkpoint.pt", trained, averaged


@pytest.mark.parametrize("weights", ["averaged", "trained"])
def test_an_exported_file_holds_the_chosen_weights_and_nothing_else(tmp_path, tiny, weights):
    path, trained, averaged = tiny
    chosen = averaged if weights == "averaged" else trained

    result = export(path, tmp_path / "out.pt", weights)

    assert (result.network, result.weights) == ("tiny", weights)
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(content) == ["model"]
    for name, weight in content["model"].items():
        assert weight.dtype == torch.float32
        assert weight.is_contiguous()
        expected = chosen.state_dict()[name]
        # Places that no index has filled are 0 in the published window.
        assert torch.equal(weight, expected.float().clamp(min=0) if "used" in name else expected)
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        back = load_tokenizer(tmp_path / "out.pt")(x).x_hat
        torch.testing.assert_close(back, chosen.eval()(x).x_hat)


def test_the_published_file_passes_through_unchanged(tmp_path):
    theirs = published_state(Tokenizer(CONFIGS["tiny"]).state_dict())
    torch.save({"model": theirs}, tmp_path / "theirs.pt")

    assert export(tmp_path / "theirs.pt", tmp_path / "ours.pt").weights == "trained"

    ours = torch.load(tmp_path / "ours.pt", weights_only=True)["model"]
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_network_without_a_name_cannot_be_exported(tmp_path):
    state = initial_state(micro(), torch.device("cpu"))
    saved = checkpoint_of(state, micro())
    save_checkpoint(tmp_path / "c.pt", saved)

    with pytest.raises(UsageError, match=r"none of the networks.*nearest is .*of another shape"):
        export(tmp_path / "c.pt", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [("checkpoint.pt", "exists already"), ("out.safetensors", r"must end in \.pt")],
    ids=["in place", "another format"],
)
def test_nothing_is_overwritten_and_no_other_format_pretended(tiny, out, message):
    path, _, _ = tiny
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message):
        export(path, path.with_name(out))
    assert path.read_bytes() == before


def test_the_command_exports_and_says_what(tiny, capsys):
    path, _, _ = tiny
    assert main(["export", str(path), "--out", str(path.with_name("new.pt")), "--json"]) == 0
    captured = capsys.readouterr()
    assert '"network": "tiny"' in captured.out
    assert "averaged weights of tiny" in captured.err
    assert main(["export", str(path), "--out", str(path.with_name("new.pt"))]) == 2


def test_weights_of_another_network_are_named():
    weights = Tokenizer(CONFIGS["tiny"]).state_dict()
    weights.pop("quant_conv.bias")
    with pytest.raises(ValueError, match=r"^1 missing \(quant_conv\.bias\)$"):
        tokenizer_of(CONFIGS["tiny"], weights)


def test_expected_shapes_need_no_memory():
    shapes = expected_shapes(CONFIGS["insight_426m"])
    assert shapes["decoder.conv_out.weight"] == (3, 256, 3, 3)
