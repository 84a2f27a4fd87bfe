"""What a SavedModel directory of Keras 2 holds: the description of its layers, and their weights.

Protocol buffers and the checkpoint are read as data. Nothing of the directory's graph is run, and nothing of
``tf.saved_model.load``, which would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2, trackable_object_graph_pb2

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.loading.hdf5 import SavedLayer

MODEL = "saved_model.pb"
# Since TensorFlow 2.5; before, it was in saved_model.pb.
KERAS_METADATA = "keras_metadata.pb"


def read(path: Path, judge: Callable[[list[tuple[int, ...]]], None]) -> tuple[dict[str, Any], str, list[SavedLayer]]:
    """The description of the layers, the Keras version, and the weights of the layers that have any.

    ``judge`` is given the weights' shapes before they are read.

    Raises
    ------
    LoadError
        The directory is no SavedModel, is damaged, or does not hold Keras layers.
    """
    graph = _object_graph(path)
    described = _descriptions(path, graph)
    root = described.get(0)
    if root is None:
        raise LoadError(
            f"{path}: this SavedModel holds a computation but not Keras' layers (model.export and tf.saved_model.save "
            "write such); give the .keras or .h5 file that it was made from"
        )
    config = root.get("model_config") or {"class_name": root.get("class_name"), "config": root.get("config")}
    if "layers" not in (config["config"] or {}):
        raise LoadError(
            f"{path}: this SavedModel is of the class {config['class_name']!r}, whose layers only its own code can "
            "make; load it with that code in Keras 2, build the same layers as a functional model and save that"
        )
    return config, str(root.get("keras_version", "2")), _weights(path, graph, described, judge)


def _object_graph(path: Path) -> Any:
    if not (path / MODEL).is_file():
        raise LoadError(f"{path}: this folder holds no {MODEL}, so it is no SavedModel; give a .keras or .h5 file")
    try:
        model = saved_model_pb2.SavedModel.FromString((path / MODEL).read_bytes())
        return model.meta_graphs[0].object_graph_def
    except (DecodeError, IndexError) as error:
        raise LoadError(f"{path}: its {MODEL} is damaged ({error}); fetch or save it again") from error


def _descriptions(path: Path, graph: Any) -> dict[int, dict[str, Any]]:
    """What Keras noted of each object, by the object's number."""
    try:
        if (path / KERAS_METADATA).is_file():
            nodes = _metadata_message().FromString((path / KERAS_METADATA).read_bytes()).nodes
            noted = {node.node_id: node.metadata for node in nodes}
        else:
            noted = {i: node.user_object.metadata for i, node in enumerate(graph.nodes)}
        return {i: json.loads(metadata, object_hook=_listed_tuple) for i, metadata in noted.items() if metadata}
    except (DecodeError, ValueError) as error:
        raise LoadError(f"{path}: what Keras noted in it is damaged ({error}); fetch or save it again") from error


def _listed_tuple(value: dict[str, Any]) -> Any:
    """A tuple or shape as JSON of the other forms has it; here alone Keras 2 notes what it was."""
    return value["items"] if value.get("class_name") in ("__tuple__", "TensorShape") else value


def _metadata_message() -> Any:
    """The message in ``keras_metadata.pb``, whose definition came with Keras 2 (saved_metadata.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="keepdrop_keras_metadata.proto", package="keepdrop", syntax="proto3")
    node = file.message_type.add(name="Node")
    field = descriptor_pb2.FieldDescriptorProto
    node.field.add(name="node_id", number=2, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    node.field.add(name="metadata", number=5, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    nodes = file.message_type.add(name="Metadata").field.add(name="nodes", number=1, label=field.LABEL_REPEATED)
    nodes.type, nodes.type_name = field.TYPE_MESSAGE, ".keepdrop.Node"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("keepdrop.Metadata"))


def _weights(
    path: Path, graph: Any, described: dict[int, dict[str, Any]], judge: Callable[[list[tuple[int, ...]]], None]
) -> list[SavedLayer]:
    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        shapes = reader.get_variable_to_shape_map()
        judge([tuple(shape) for key, shape in shapes.items() if "optimizer" not in key])
        saved = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        )
        layers = []
        # The two graphs have the same names of children, and the order of layers is in them.
        for name, place in _numbered(saved.nodes[0], "layer_with_weights-"):
            layer = saved.nodes[place]
            trainable = _listed(saved, layer, "trainable_variables")
            others = [node for node in _listed(saved, layer, "variables") if node not in trainable]
            attributes = [saved.nodes[node].attributes[0] for node in (*trainable, *others)]
            number = next(child.node_id for child in graph.nodes[0].children if child.local_name == name)
            layers.append(
                SavedLayer(
                    str(described.get(number, {}).get("name", name)),
                    tuple(a.full_name for a in attributes),
                    tuple(np.asarray(reader.get_tensor(a.checkpoint_key)) for a in attributes),
                )
            )
        return layers
    except LoadError:
        raise
    except (tf.errors.OpError, DecodeError, IndexError, StopIteration, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LoadError(f"{path}: its variables are missing or damaged ({reason}); fetch or save it again") from error


def _numbered(node: Any, prefix: str) -> list[tuple[str, int]]:
    found = [(c.local_name, c.node_id) for c in node.children if c.local_name.startswith(prefix)]
    return sorted(found, key=lambda child: int(child[0].removeprefix(prefix)))


def _listed(graph: Any, node: Any, name: str) -> list[int]:
    lists = [graph.nodes[child.node_id] for child in node.children if child.local_name == name]
    return [child.node_id for child in sorted(lists[0].children, key=lambda c: int(c.local_name))] if lists else []
