"""ONNX's own node tests as an oracle: float inputs and outputs of the operators that gates have."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpunet import gates
from gpunet.graph import Gate

onnx = pytest.importorskip("onnx", reason="the onnx wheel brings the node tests")

Run = Callable[[dict[str, Any], list[np.ndarray]], Any]
"""The output for attributes and inputs; None where gpunet has no such form."""


def gate(kind: type[Gate]) -> Run:
    def run(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
        return None if attributes else kind().forward(*inputs)

    return run


def reduction(kind: type[gates.Reduction]) -> Run:
    def run(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
        x, axes = inputs[0], attributes.get("axes")
        if len(inputs) > 1:
            axes = inputs[1].tolist()
        if attributes.get("noop_with_empty_axes") or (kind is gates.Max and not x.size):
            return None
        keep = bool(attributes.get("keepdims", 1))
        return kind(tuple(axes) if axes else None, keep).forward(x)

    return run


def folded(kind: type[Gate]) -> Run:
    """Max and Min of any number of inputs, two at a time."""

    def run(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
        value = inputs[0]
        for other in inputs[1:]:
            value = kind().forward(value, other)
        return value

    return run


def gelu(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    tanh_form = attributes.get("approximate") == b"tanh"
    return gates.GELU().forward(*inputs) if tanh_form else None


def selu(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    return None if attributes else gates.SELU().forward(*inputs)


def swish(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    alpha = attributes.get("alpha", 1.0)
    return gates.SiLU().forward(alpha * inputs[0]) / alpha


def transpose(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    return gates.Transpose(*attributes.get("perm", ())).forward(*inputs)


def reshape(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    x, shape = inputs
    if 0 in shape:
        return None
    return gates.Reshape(*shape.tolist()).forward(x)


def expand(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    x, shape = inputs
    return gates.Broadcast(*np.broadcast_shapes(x.shape, tuple(shape))).forward(x)


def concat(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    return gates.Concatenate(attributes["axis"]).forward(*inputs)


def gather(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    x, index = inputs
    if attributes.get("axis", 0) or (index < 0).any():
        return None
    return gates.Take().forward(x, index)


def layer_norm(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    x = inputs[0]
    last = attributes.get("axis", -1) in (-1, x.ndim - 1)
    if not last or "epsilon" in attributes or len(inputs) != 3:
        return None
    return gates.LayerNorm().forward(*inputs)


def batch_norm(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    """Channels come second in ONNX, last here."""
    x, gain, bias, mean, var = inputs
    if "epsilon" in attributes:
        return None
    norm = gates.BatchNorm(len(gain))
    norm.training = bool(attributes.get("training_mode", 0))
    norm.running_mean, norm.running_var = mean.astype(np.float64), var.astype(np.float64)
    last = np.moveaxis(x, 1, -1)
    y = norm.forward(last.reshape(-1, len(gain)), gain, bias)
    return np.moveaxis(y.reshape(last.shape), -1, 1)


def cross_entropy(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    """Class weights become row weights; ONNX divides by their sum, gpunet by the rows."""
    pred, target, *weights = inputs
    if attributes.get("reduction", b"mean") == b"none" or "ignore_index" in attributes:
        return None
    logits, classes = np.moveaxis(pred, 1, -1).reshape(-1, pred.shape[1]), target.reshape(-1)
    row = weights[0][classes] if weights else np.ones(len(classes))
    loss = gates.SoftmaxCrossEntropy().forward(logits, classes, row)
    summed = attributes.get("reduction") == b"sum"
    return loss * len(classes) / (1 if summed else row.sum())


def dropout(attributes: dict[str, Any], inputs: list[np.ndarray]) -> Any:
    """Outside training, or with nothing to drop: which values fall is each library's own."""
    x, rate, training = [*inputs, np.array(0.5), np.array(False)][:3] if len(inputs) < 3 else inputs
    if training and rate:
        return None
    found = gates.Dropout(float(rate))
    found.training = bool(training)
    return found.forward(x)


OPERATORS: dict[str, Run] = {
    "Add": gate(gates.Add),
    "Sub": gate(gates.Subtract),
    "Mul": gate(gates.Multiply),
    "Div": gate(gates.Divide),
    "Neg": gate(gates.Negate),
    "Pow": gate(gates.Power),
    "Exp": gate(gates.Exp),
    "Log": gate(gates.Log),
    "Sqrt": gate(gates.Sqrt),
    "Abs": gate(gates.Abs),
    "Max": folded(gates.Maximum),
    "Min": folded(gates.Minimum),
    "Sin": gate(gates.Sin),
    "Cos": gate(gates.Cos),
    "Softplus": gate(gates.Softplus),
    "Identity": gate(gates.Identity),
    "Sigmoid": gate(gates.Sigmoid),
    "Tanh": gate(gates.Tanh),
    "Relu": gate(gates.ReLU),
    "Selu": selu,
    "Gelu": gelu,
    "Swish": swish,
    "Mish": gate(gates.Mish),
    "MatMul": gate(gates.MatMul),
    "ReduceSum": reduction(gates.Sum),
    "ReduceMean": reduction(gates.Mean),
    "ReduceMax": reduction(gates.Max),
    "Reshape": reshape,
    "Transpose": transpose,
    "Expand": expand,
    "Gather": gather,
    "Concat": concat,
    "Dropout": dropout,
    "LayerNormalization": layer_norm,
    "BatchNormalization": batch_norm,
    "SoftmaxCrossEntropyLoss": cross_entropy,
}
FLOATS = (np.float32, np.float64)


def node_tests() -> dict[str, tuple[str, dict[str, Any], list[np.ndarray], np.ndarray]]:
    """Tests of one operator of ours on floats: operator, attributes, inputs, first output."""
    from onnx.backend.test.loader import load_model_tests

    found = {}
    for case in load_model_tests(kind="node"):
        nodes = case.model.graph.node if case.model else ()
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS or "" in nodes[0].input:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
        for inputs, outputs in case.data_sets:
            arrays = all(
                isinstance(each, np.ndarray | np.generic) for each in (*inputs, outputs[0])
            )
            if arrays and inputs[0].dtype in FLOATS and outputs[0].dtype in FLOATS:
                found[case.name] = (nodes[0].op_type, attributes, inputs, outputs[0])
    return found


def test_values_equal_onnx(recwarn: pytest.WarningsRecorder) -> None:
    """All in one test: to build ONNX's cases, which warn, takes longer than to run them."""
    checked: dict[str, int] = dict.fromkeys(OPERATORS, 0)
    for name, (operator, attributes, inputs, wanted) in node_tests().items():
        value = OPERATORS[operator](attributes, inputs)
        if value is None:
            continue
        assert np.shape(value) == wanted.shape, name
        np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-6, err_msg=name)
        checked[operator] += 1
    assert [operator for operator, count in checked.items() if not count] == []
    assert sum(checked.values()) >= 110
