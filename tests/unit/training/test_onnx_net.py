import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch.nn import functional as F

from annotations_schema.errors import WeightsError
from annotations_schema.weights import read_weights
from tests.gradient_check import directional_error
from training.models.frozen.cards import CARDS
from training.models.frozen.onnx_net import OnnxNet

RANDOM = np.random.default_rng(0)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def model(nodes, constants=None, *, outputs=("y",), inputs=("x",), opset=13):
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info(name, FLOAT, None) for name in inputs],
        [oh.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [oh.make_opsetid("", opset)]
    return oh.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def onnxruntime_outputs(model_bytes, x, names=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_bytes, options, ["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: x})


def one_node(operator, inputs=(), *, opset=13, shape=(2, 4, 7, 6), **attributes):
    """A model of one node on x and constants, and an x of the shape."""
    constants = {f"c{i}": value for i, value in enumerate(inputs)}
    node = oh.make_node(operator, ["x", *constants], ["y"], **attributes)
    return model([node], constants, opset=opset), floats(*shape)


CASES = {
    "conv": one_node("Conv", [floats(6, 4, 3, 3), floats(6)], pads=[1, 1, 1, 1], strides=[2, 1]),
    "conv without bias, dilated": one_node("Conv", [floats(6, 4, 3, 3)], dilations=[2, 1]),
    "conv of groups": one_node("Conv", [floats(4, 1, 3, 3)], group=4, pads=[1, 1, 1, 1]),
    "conv padded unevenly": one_node("Conv", [floats(2, 4, 3, 3)], pads=[0, 1, 2, 0]),
    "conv same upper": one_node("Conv", [floats(2, 4, 2, 2)], auto_pad="SAME_UPPER"),
    "conv same lower": one_node(
        "Conv", [floats(2, 4, 3, 3)], auto_pad="SAME_LOWER", strides=[2, 2]
    ),
    "conv 1-d": one_node("Conv", [floats(3, 4, 3)], shape=(2, 4, 9), pads=[1, 1]),
    "max pool": one_node("MaxPool", kernel_shape=[2, 3], strides=[2, 2]),
    "max pool same upper": one_node("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
    "max pool ceil": one_node("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    "average pool": one_node("AveragePool", kernel_shape=[3, 2], strides=[3, 2]),
    "average pool padded": one_node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average pool counting pads": one_node(
        "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    ),
    "average pool padded unevenly": one_node(
        "AveragePool", kernel_shape=[2, 2], auto_pad="SAME_UPPER"
    ),
    "global average pool": one_node("GlobalAveragePool"),
    "batch norm": one_node(
        "BatchNormalization",
        [floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1],
        epsilon=1e-3,
    ),
    "gemm": one_node("Gemm", [floats(5, 3), floats(5)], shape=(2, 3), transB=1, alpha=0.5),
    "gemm without bias": one_node("Gemm", [floats(2, 5)], shape=(2, 3), transA=1),
    "matmul": one_node("MatMul", [floats(6, 3)]),
    "add": one_node("Add", [floats(4, 1, 1)]),
    "sub": one_node("Sub", [floats(6)]),
    "mul": one_node("Mul", [floats(1)]),
    "div": one_node("Div", [np.abs(floats(7, 6)) + 1]),
    "pow": one_node("Pow", [np.float32([2.0])]),
    "sqrt": (model([oh.make_node("Sqrt", ["x"], ["y"])]), np.abs(floats(2, 3))),
    "exp": one_node("Exp"),
    "erf": one_node("Erf"),
    "clip": one_node("Clip", [np.float32(-0.5), np.float32(0.5)]),
    "clip by attributes": one_node("Clip", opset=9, min=-0.5, max=0.25),
    "clip below only": one_node("Clip", [np.float32(0.0)]),
    "relu": one_node("Relu"),
    "leaky relu": one_node("LeakyRelu", alpha=0.1),
    "prelu": one_node("PRelu", [floats(4, 1, 1)]),
    "sigmoid": one_node("Sigmoid"),
    "hard sigmoid": one_node("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hard swish": one_node("HardSwish", opset=14),
    "tanh": one_node("Tanh"),
    "gelu": one_node("Gelu", opset=20),
    "gelu tanh": one_node("Gelu", opset=20, approximate="tanh"),
    "softmax": one_node("Softmax", axis=1),
    "softmax before opset 13": one_node("Softmax", opset=11, axis=2),
    "mean by attribute": one_node("ReduceMean", axes=[2, 3]),
    "mean by input": one_node("ReduceMean", [ints(-1)], opset=18, keepdims=0),
    "sum of all": one_node("ReduceSum"),
    "reshape": one_node("Reshape", [ints(0, -1, 6)]),
    "flatten": one_node("Flatten", axis=2),
    "flatten all": one_node("Flatten", axis=0),
    "squeeze by attribute": one_node("Squeeze", opset=11, shape=(2, 4, 1, 6), axes=[2]),
    "squeeze by input": one_node("Squeeze", [ints(2, 0)], shape=(1, 4, 1, 6)),
    "squeeze all": one_node("Squeeze", shape=(1, 4, 1, 6)),
    "unsqueeze by attribute": one_node("Unsqueeze", opset=11, axes=[0, 3]),
    "unsqueeze by input": one_node("Unsqueeze", [ints(-1, 0)]),
    "transpose": one_node("Transpose", perm=[0, 3, 1, 2]),
    "transpose reversed": one_node("Transpose"),
    "concat": (model([oh.make_node("Concat", ["x", "x"], ["y"], axis=2)]), floats(1, 2, 3)),
    "slice": one_node("Slice", [ints(1, -3), ints(2**62, -1), ints(1, 2), ints(2, 1)]),
    "slice of first axes": one_node("Slice", [ints(0, 1), ints(1, 3)]),
    "gather": one_node("Gather", [ints(2, -1, 0)], axis=1),
    "gather one": one_node("Gather", [np.array(1, np.int64)], axis=-1),
    "identity": one_node("Identity"),
    "dropout": one_node("Dropout"),
    "cast": one_node("Cast", to=TensorProto.DOUBLE),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operator_agrees_with_onnxruntime(case):
    model_bytes, x = case

    (ours,) = OnnxNet(model_bytes, ["y"])(torch.from_numpy(x))

    (reference,) = onnxruntime_outputs(model_bytes, x)
    assert ours.shape == reference.shape
    np.testing.assert_allclose(ours.numpy(), reference, rtol=2e-5, atol=2e-5)


def test_shape_arithmetic_agrees_with_onnxruntime():
    nodes = [
        oh.make_node("Shape", ["x"], ["shape"]),
        oh.make_node("Slice", ["shape", "two", "three"], ["height"]),
        oh.make_node("Div", ["height", "two"], ["half"]),
        oh.make_node("Concat", ["half", "rest"], ["target"], axis=0),
        oh.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"two": ints(2), "three": ints(3), "rest": ints(2, -1)}
    model_bytes, x = model(nodes, constants), floats(1, 3, 6, 4)

    (ours,) = OnnxNet(model_bytes, ["y"])(torch.from_numpy(x))

    assert ours.shape == (3, 2, 12)
    assert np.array_equal(ours.numpy(), onnxruntime_outputs(model_bytes, x)[0])


@pytest.mark.parametrize(
    ("block_size", "axis", "scale_shape"),
    [(None, 1, ()), (None, 0, (4,)), (3, 1, (4, 2)), (2, 0, (2, 6))],
    ids=["one scale", "per row", "blocks along rows", "blocks along columns"],
)
def test_quantised_weights_are_dequantised_when_read(block_size, axis, scale_shape):
    weights = RANDOM.integers(-128, 127, (4, 6)).astype(np.int8)
    scale = np.abs(RANDOM.standard_normal(scale_shape)).astype(np.float32)
    zero = RANDOM.integers(-5, 5, scale_shape).astype(np.int8)
    blocks = {} if block_size is None else {"block_size": block_size}
    nodes = [
        oh.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"], axis=axis, **blocks),
        oh.make_node("Gemm", ["x", "weight"], ["y"], transB=1),
    ]
    model_bytes = model(nodes, {"w": weights, "scale": scale, "zero": zero}, opset=21)
    x = floats(3, 6)

    net = OnnxNet(model_bytes, ["y"])

    if block_size is None:
        spread = [scale.reshape(-1, 1), zero.reshape(-1, 1)]
    else:
        spread = [np.repeat(values, block_size, axis) for values in (scale, zero)]
    expected = x @ ((weights - spread[1].astype(np.float32)) * spread[0]).T
    np.testing.assert_allclose(net(torch.from_numpy(x))[0].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_constant_nodes_are_weights():
    value = numpy_helper.from_array(floats(6), "v")
    nodes = [
        oh.make_node("Constant", [], ["c"], value=value),
        oh.make_node("Mul", ["x", "c"], ["y"]),
    ]
    x = floats(2, 6)

    net = OnnxNet(model(nodes), ["y"])

    np.testing.assert_allclose(
        net(torch.from_numpy(x))[0].numpy(), x * numpy_helper.to_array(value), rtol=1e-6
    )


def test_taps_come_in_the_order_asked_for_and_end_the_work():
    nodes = [
        oh.make_node("Relu", ["x"], ["a"]),
        oh.make_node("Sigmoid", ["a"], ["b"]),
        oh.make_node("NonMaxSuppression", ["b"], ["y"]),
    ]
    net = OnnxNet(model(nodes), ["b", "a"])
    x = torch.tensor([-1.0, 2.0])

    b, a = net(x)

    # The unknown operator behind the taps is neither needed nor in the way.
    assert torch.equal(a, x.relu())
    assert torch.equal(b, x.relu().sigmoid())


def test_an_unknown_operator_is_named_when_the_file_is_read():
    nodes = [oh.make_node("NonMaxSuppression", ["x"], ["a"]), oh.make_node("LSTM", ["a"], ["y"])]

    with pytest.raises(WeightsError, match=r"operators LSTM, NonMaxSuppression"):
        OnnxNet(model(nodes), ["y"])


def test_a_tap_that_does_not_exist_is_named():
    with pytest.raises(WeightsError, match=r"no tensor conv9"):
        OnnxNet(model([oh.make_node("Relu", ["x"], ["y"])]), ["y", "conv9"])


def test_a_network_of_two_inputs_is_refused():
    model_bytes = model([oh.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z"))

    with pytest.raises(WeightsError, match=r"inputs \['x', 'z'\]: it must be exactly one"):
        OnnxNet(model_bytes, ["y"])


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(WeightsError, match=r"11 bytes are not an ONNX model"):
        OnnxNet(b"hello world", ["y"])


def test_weights_are_buffers_that_move_and_never_train():
    model_bytes, x = CASES["conv"]
    net = OnnxNet(model_bytes, ["y"]).double()

    (y,) = net(torch.from_numpy(x).double())

    assert not list(net.parameters())
    assert len(list(net.buffers())) == 2
    assert y.dtype == torch.float64


def fused_graph(tap_the_middle):
    """Conv, bias, batch norm, exported GELU."""
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1]),
        oh.make_node("Add", ["conv", "bias"], ["biased"]),
        oh.make_node("BatchNormalization", ["biased", "g", "b", "m", "v"], ["normed"]),
        oh.make_node("Identity", ["normed"], ["same"]),
        oh.make_node("Div", ["same", "root"], ["scaled"]),
        oh.make_node("Erf", ["scaled"], ["erf"]),
        oh.make_node("Add", ["one", "erf"], ["gate"]),
        oh.make_node("Mul", ["same", "gate"], ["product"]),
        oh.make_node("Mul", ["product", "half"], ["gelu"]),
        oh.make_node("Relu", ["gelu"], ["y"]),
    ]
    constants = {
        "w": floats(4, 3, 3, 3),
        "bias": floats(1, 4, 1, 1),
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32([0.5]),
    }
    constants |= dict(zip("gbm", floats(3, 4), strict=True)) | {"v": np.abs(floats(4)) + 0.1}
    outputs = ("biased", "erf", "y") if tap_the_middle else ("y",)
    return model(nodes, constants, outputs=outputs), outputs


@pytest.mark.parametrize("tap_the_middle", [False, True], ids=["end alone", "inside as well"])
def test_rewriting_keeps_the_values_of_every_tap(tap_the_middle):
    model_bytes, taps = fused_graph(tap_the_middle)
    x = floats(2, 3, 5, 6)

    ours = OnnxNet(model_bytes, taps)(torch.from_numpy(x))

    for mine, reference in zip(ours, onnxruntime_outputs(model_bytes, x, list(taps)), strict=True):
        np.testing.assert_allclose(mine.numpy(), reference, rtol=1e-5, atol=1e-5)


def test_rewriting_leaves_a_convolution_and_a_gelu_of_ten_nodes():
    model_bytes, _ = fused_graph(tap_the_middle=False)

    operators = [node.operator for node in OnnxNet(model_bytes, ["y"])._nodes]

    assert operators == ["Conv", "Gelu", "Relu"]


def test_a_bias_per_column_is_not_taken_for_one_per_channel():
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["conv"]),
        oh.make_node("Add", ["conv", "columns"], ["y"]),
    ]
    model_bytes = model(nodes, {"w": floats(4, 3, 1, 1), "columns": floats(1, 1, 4)})
    x = floats(1, 3, 4, 4)

    (ours,) = OnnxNet(model_bytes, ["y"])(torch.from_numpy(x))

    np.testing.assert_allclose(ours.numpy(), onnxruntime_outputs(model_bytes, x)[0], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("perm", [[0, 3, 1, 2], [3, 0, 1, 2]], ids=["batch first", "time first"])
def test_batch_norm_before_a_permute_has_the_right_input_gradient(perm, batch):
    # torch's own batch norm fails this on the CPU: the reason why frozen ones are rewritten.
    nodes = [
        oh.make_node("Relu", ["x"], ["r"]),
        oh.make_node("BatchNormalization", ["r", "g", "b", "m", "v"], ["n"]),
        oh.make_node("Transpose", ["n"], ["t"], perm=perm),
        oh.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    constants = dict(zip("gbm", floats(3, 8), strict=True)) | {"v": np.abs(floats(8)) + 0.1}
    constants["w"] = floats(1, 5)
    net = OnnxNet(model(nodes, constants), ["y"]).double()
    random = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 8, 1, 20, dtype=torch.float64, generator=random)

    assert directional_error(net, x) < 1e-6


FROZEN = {
    "ppocr_v6_small": ("p2o.pd_op.add.18.0", "p2o.pd_op.add.64.0", "p2o.pd_op.add.78.0"),
    "vgg16_keras": (
        "functional_1/block1_conv2_1/Relu:0",
        "functional_1/block3_conv3_1/Relu:0",
        "functional_1/block5_conv3_1/Relu:0",
    ),
    "sface": ("conv_4_relu", "conv_14_relu"),
}


@pytest.fixture(scope="module", params=FROZEN.keys())
def frozen(request):
    """Name, bytes and taps of an embedded network."""
    return request.param, read_weights(CARDS[request.param]), FROZEN[request.param]


def own_input(name, batch, width=64):
    """Noise in the network's range; the convolutional part of each takes small images."""
    random = np.random.default_rng(3)
    if name == "ppocr_v6_small":
        return random.uniform(-1, 1, (batch, 3, 48, width)).astype(np.float32)
    if name == "sface":
        return random.uniform(0, 255, (batch, 3, 48, 48)).astype(np.float32)
    return random.uniform(-110, 140, (batch, 32, 32, 3)).astype(np.float32)


def cut_behind(model_bytes, taps):
    """The model up to its last tap, the taps as its outputs, for images of any size."""
    proto = onnx.load_model_from_string(model_bytes)
    last = max(i for i, node in enumerate(proto.graph.node) if node.output[0] in taps)
    del proto.graph.node[last + 1 :]
    del proto.graph.output[:]
    proto.graph.output.extend(oh.make_empty_tensor_value_info(tap) for tap in taps)
    for axis, dimension in enumerate(proto.graph.input[0].type.tensor_type.shape.dim):
        dimension.dim_param = f"axis{axis}"
    del proto.graph.value_info[:]
    return proto.SerializeToString()


# onnxruntime rejects SFace's block-quantised weights; OpenCV runs it, see test_recognisers.
@pytest.mark.parametrize("name", ["ppocr_v6_small", "vgg16_keras"])
def test_frozen_network_agrees_with_onnxruntime_at_every_tap(name):
    model_bytes, taps = read_weights(CARDS[name]), FROZEN[name]
    x = own_input(name, 2, width=192)

    with torch.no_grad():
        ours = OnnxNet(model_bytes, taps)(torch.from_numpy(x))

    references = onnxruntime_outputs(cut_behind(model_bytes, taps), x, list(taps))
    for mine, reference in zip(ours, references, strict=True):
        scale = np.abs(reference).max()
        assert np.abs(mine.numpy() - reference).max() < 2e-5 * scale


@pytest.mark.parametrize("batch", [1, 2])
def test_frozen_network_has_the_right_input_gradient(frozen, batch):
    name, model_bytes, taps = frozen
    net = OnnxNet(model_bytes, taps).double()
    x = torch.from_numpy(own_input(name, batch)).double()

    assert directional_error(net, x) < 1e-4


def test_face_embedding_has_the_right_input_gradient():
    net = OnnxNet(read_weights(CARDS["sface"]), ["fc1"]).double()
    x = torch.from_numpy(np.random.default_rng(3).uniform(0, 255, (1, 3, 112, 112)))

    assert directional_error(net, x) < 1e-4


def test_images_of_a_batch_do_not_mix(frozen):
    name, model_bytes, taps = frozen
    net = OnnxNet(model_bytes, taps)
    x = torch.from_numpy(own_input(name, 2))

    with torch.no_grad():
        together, alone = net(x), net(x[1:])

    for a, b in zip(together, alone, strict=True):
        assert F.l1_loss(a[1:], b) < 1e-5 * b.abs().max()
