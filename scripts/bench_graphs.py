"""ONNX graphs of the bench's own: the floor, an artifact without its generator, a model without dropout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bench_cases import GATES, INPUT, SEED, Case, check_equal

OPSET = 18
IR_VERSION = 8

Feeds = dict[str, NDArray[Any]]


def open_session(model: onnx.ModelProto, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Floor:
    """The products of a case's steps and nothing else, shared between workers that run single-threaded sessions."""

    def __init__(self, case: Case, workers: int, folder: Path) -> None:
        model = _products(case)
        _count_products(case, model, folder)
        self._session = open_session(model, threads=1)
        edges = [case.rows * case.samples * i // workers for i in range(workers + 1)]
        self._shares = [_operands(case, stop - start) for start, stop in zip(edges, edges[1:], strict=False)]
        self._helpers = ThreadPoolExecutor(workers - 1) if workers > 1 else None

    def run(self) -> None:
        mine, *others = self._shares
        futures = [self._helpers.submit(self._session.run, None, share) for share in others] if self._helpers else []
        self._session.run(None, mine)
        wait(futures)


def _products(case: Case) -> onnx.ModelProto:
    """A Scan whose body is a `MatMul` a gate: [N, H + F + 1] under the gate's masks with [H + F + 1, H].

    The operands come from outside the Scan and the results are its states, so that a step copies nothing. What a
    step makes the next one does not read: the products alone are to be timed, not what lies between them.
    """
    gates, width = range(GATES[case.kind]), case.units + case.features + 1
    rng = np.random.default_rng(SEED)
    matrices = [
        numpy_helper.from_array(rng.standard_normal((width, case.units), np.float32), f"matrix_{g}") for g in gates
    ]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    body = helper.make_graph(
        [helper.make_node("MatMul", [f"operand_{g}", f"matrix_{g}"], [f"sum_{g}"]) for g in gates],
        "step",
        [*(value(f"before_{g}", "N", case.units) for g in gates), value("tick", 1)],
        [value(f"sum_{g}", "N", case.units) for g in gates],
    )
    scan = helper.make_node(
        "Scan",
        [*(f"start_{g}" for g in gates), "ticks"],
        [f"end_{g}" for g in gates],
        body=body,
        num_scan_inputs=1,
    )
    graph = helper.make_graph(
        [scan],
        "floor",
        [
            *(value(f"operand_{g}", "N", width) for g in gates),
            *(value(f"start_{g}", "N", case.units) for g in gates),
            value("ticks", "steps", 1),
        ],
        [value(f"end_{g}", "N", case.units) for g in gates],
        matrices,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _operands(case: Case, n: int) -> Feeds:
    rng = np.random.default_rng(SEED)
    width = case.units + case.features + 1
    gates = range(GATES[case.kind])
    operands = {f"operand_{g}": rng.standard_normal((n, width), np.float32) for g in gates}
    starts = {f"start_{g}": np.zeros((n, case.units), np.float32) for g in gates}
    return {**operands, **starts, "ticks": np.zeros((case.steps, 1), np.float32)}


def _count_products(case: Case, model: onnx.ModelProto, folder: Path) -> None:
    """See in onnxruntime's own profile that no product was merged, or moved out of the loop."""
    session = open_session(model, 1, profile=folder / "floor")
    session.run(None, _operands(case, 1))
    events = json.loads(Path(session.end_profiling()).read_text())
    count = sum(event.get("args", {}).get("op_name") == "MatMul" for event in events)
    if count != case.steps * GATES[case.kind]:
        raise SystemExit(
            f"bench: the floor of {case.name} ran {count} products and should run {case.steps * GATES[case.kind]}"
        )


class Generator:
    """An artifact beside the same graph with its masks given, both on one thread of bare onnxruntime."""

    def __init__(self, artifact: Path, x: NDArray[np.float32], samples: int) -> None:
        whole = onnx.load(artifact)
        rest, cut = _without_generator(whole)
        feeds = {
            INPUT: x,
            "seed": np.array(SEED),
            "rows": np.arange(len(x)),
            "num_samples": np.array(samples),
            "first_sample": np.array(0),
        }
        outputs = [y.name for y in whole.graph.output]
        masks = _values(whole, cut, feeds)
        for name, mask in masks.items():
            element = helper.np_dtype_to_tensor_dtype(mask.dtype)
            rest.graph.input.append(helper.make_tensor_value_info(name, element, [None] * mask.ndim))
        self._whole, self._whole_feeds = open_session(whole, 1), feeds
        self._rest, self._rest_feeds = open_session(rest, 1), {**feeds, **masks}
        self._outputs = outputs
        for got, expected in zip(self.masks_given(), self.whole(), strict=True):
            check_equal(got, expected, "the graph with its masks given")

    def whole(self) -> list[NDArray[Any]]:
        return self._whole.run(self._outputs, self._whole_feeds)

    def masks_given(self) -> list[NDArray[Any]]:
        return self._rest.run(self._outputs, self._rest_feeds)


def _without_generator(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with the generator's results as inputs still to be declared, and their names.

    To the generator belongs what follows from the seed and not from the model's input, masks laid side by side
    included. A tensor's shape does not count as following from it.
    """
    from_seed, from_input = {"seed"}, {INPUT}
    made_by: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        made_by |= dict.fromkeys(node.output, node)
        if node.op_type not in ("Shape", "Size"):
            reads = set(_reads(node))
            for known in (from_seed, from_input):
                if reads & known:
                    known.update(node.output)
    generated = from_seed - from_input
    needed, cut = {y.name for y in model.graph.output}, set()
    kept = []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output) or not generated.isdisjoint(node.output):
            continue
        kept.append(node)
        reads = set(_reads(node))
        needed |= reads
        cut |= {name for name in reads & generated if name in made_by}
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.node[:], rest.graph.value_info[:]
    rest.graph.node.extend(reversed(kept))
    return rest, sorted(cut)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node takes, and what its bodies take from outside (their own names are no one else's)."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)
            yield from (y.name for y in attribute.g.output)


def _values(model: onnx.ModelProto, names: list[str], feeds: Feeds) -> Feeds:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, open_session(shown, 1).run(names, feeds), strict=True))


class Deterministic:
    """A model without its dropout, as tf2onnx converts it, in bare onnxruntime."""

    def __init__(self, model: keras.Model, x: NDArray[np.float32], threads: int) -> None:
        spec = tf.TensorSpec((None, *x.shape[1:]), tf.float32, name=INPUT)
        function = tf.function(lambda series: model(series, training=False), autograph=False)
        proto, _ = tf2onnx.convert.from_function(function, [spec], opset=OPSET)
        self._session, self._x = open_session(proto, threads), x
        self._input = self._session.get_inputs()[0].name
        # They tell whether the conversion found the fused recurrence.
        self.operators = sorted({node.op_type for node in proto.graph.node})
        check_equal(self.run()[0], np.asarray(model(x, training=False)), "the deterministic pass")

    def run(self) -> list[NDArray[Any]]:
        return self._session.run(None, {self._input: self._x})
