"""An ONNX graph by its nodes: their order, their names, what they need."""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import onnx


def sort(graph: onnx.GraphProto) -> None:
    """Order the nodes so that each comes after those it takes from."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
    needs = {i: {made_by[name] for name in _read_by(node) if name in made_by} for i, node in enumerate(graph.node)}
    ordered = [graph.node[i] for i in graphlib.TopologicalSorter(needs).static_order()]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _read_by(inner)


def read(graph: onnx.GraphProto) -> set[str]:
    """The tensors that a graph's nodes and outputs take, those of bodies too."""
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= read(attribute.g)
    return found


def needed_for(graph: onnx.GraphProto, names: Sequence[str]) -> set[int]:
    """The numbers of the nodes that these tensors come from."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    waiting = [made_by[name] for name in names if name in made_by]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += [made_by[name] for name in _read_by(graph.node[i]) if name in made_by]
    return found


def rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors other names, in bodies of control flow too."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                rename(list(attribute.g.node), names)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def rename_canonically(graph: onnx.GraphProto, constants: Sequence[onnx.TensorProto]) -> None:
    """Name nodes and tensors after their operators and their order, which nothing but the graph decides.

    tf2onnx (1.17) numbers names through a whole process, and Keras numbers layers so. The graph's inputs and outputs
    keep their names; ``constants`` are those to come, which are renamed too.
    """
    kept = {value.name: value.name for value in (*graph.input, *graph.output)}
    numbers = (n for n in itertools.count() if not any(name.endswith(f"_{n}") for name in kept))
    _rename_all(graph, [*graph.initializer, *constants], kept, numbers)
    by_name = sorted(graph.initializer, key=lambda tensor: _number(tensor.name))
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in by_name]
    del graph.initializer[:]
    graph.initializer.extend(copies)


def _rename_all(
    graph: onnx.GraphProto, constants: Sequence[onnx.TensorProto], outer: Mapping[str, str], count: Iterator[int]
) -> None:
    names = dict(outer)
    by_name = {constant.name: constant for constant in constants}

    def named(name: str) -> str:
        if name in by_name and name not in names:
            names[name] = f"constant_{next(count)}"
        return names.get(name, name)

    def declare(name: str, label: str) -> None:
        if name and name not in names:
            names[name] = label

    for value in graph.input:
        declare(value.name, f"given_{next(count)}")
    for node in graph.node:
        node.name = f"{node.op_type}_{next(count)}"
        node.doc_string = ""
        node.input[:] = [named(name) for name in node.input]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                for name in dict.fromkeys(_read_by_graph(attribute.g)):
                    named(name)
                attribute.g.name = f"{node.name}_{attribute.name}"
                _rename_all(attribute.g, attribute.g.initializer, names, count)
        for i, name in enumerate(node.output):
            declare(name, node.name if i == 0 else f"{node.name}_{i}")
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = named(value.name)
    for constant in constants:
        constant.name = named(constant.name)
    del graph.value_info[:]


def _read_by_graph(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from _read_by(node)
    yield from (value.name for value in graph.output)


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])
