"""Descriptions of layers as Keras 2 and older Keras 3 files have them, rewritten to the form that Keras 3 reads.

Pure functions on the JSON that files hold. Where Keras 3 means something else by the same word, Keras 2's meaning is
kept; what cannot be kept is refused by the layer's name.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import keras

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.loading.trust import lambda_refused

from . import operators, options
from .activations import keras2_hard_sigmoid

Config = dict[str, Any]

# Classes that Keras 3 has under another name.
_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "CuDNNLSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "UnifiedLSTM": "LSTM",
    "UnifiedGRU": "GRU",
}
# What these compute, which their configuration does not say (Keras 2, layers/cudnn_recurrent.py).
_CUDNN: dict[str, Config] = {
    "CuDNNLSTM": {"activation": "tanh", "recurrent_activation": "sigmoid"},
    "CuDNNGRU": {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True},
}
_MODELS = ("Sequential", "Functional", "Model")
_OPERATION = "keepdrop>Keras2Operation"
_CONVOLUTIONS = ("Conv", "SeparableConv", "DepthwiseConv")  # how their classes' names begin
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_GATED = ("LSTM", "GRU", "LSTMCell", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")


def to_keras3(
    path: object,
    config: Any,
    version: str,
    custom_objects: Mapping[str, Any],
    *,
    backend: str | None = None,
    trust_code: bool = False,
) -> tuple[Config, list[str]]:
    """The description of a model in the form of ``keras.saving.deserialize_keras_object``, and what was changed.

    Parameters
    ----------
    path
        The file, for messages.
    config
        What Keras 2 wrote: ``{"class_name": ..., "config": ...}``.
    version, backend
        The file's ``keras_version`` and ``backend``.
    custom_objects
        Classes and functions that the file may name.
    trust_code
        Whether code that the file itself holds may run.

    Raises
    ------
    LoadError
        A layer is of no class known, or has an option that Keras 3 lacks and that changes what it computes.
    """
    rewriting = _Rewriting(path, version, custom_objects, backend, trust_code)
    rewriting.look_for_masks(config)
    return rewriting.model(copy.deepcopy(config)), rewriting.changes()


class _Rewriting:
    def __init__(
        self, path: object, version: str, custom_objects: Mapping[str, Any], backend: str | None, trust_code: bool
    ) -> None:
        self._path, self._version, self._backend = path, version, backend
        self._custom, self._trust_code = custom_objects, trust_code
        self._masks = False
        self._changed: dict[str, list[str]] = {}

    def changes(self) -> list[str]:
        """One line for each kind of change, with the layers it was made in."""
        lines = [line.format(layers=", ".join(dict.fromkeys(names))) for line, names in self._changed.items()]
        return [f"written by Keras {self._version}: the layers' description was rewritten to Keras 3's form", *lines]

    def look_for_masks(self, config: Any) -> None:
        """Note whether any layer of the model masks time steps."""
        text = json.dumps(config, default=str)
        self._masks = '"class_name": "Masking"' in text or '"mask_zero": true' in text

    def model(self, entry: Config) -> Config:
        """A Sequential or functional model, or a class of its own with such a configuration."""
        name, config = entry["class_name"], entry["config"]
        if isinstance(config, list):
            # Keras <= 2.1
            config = {"name": "sequential", "layers": config}
        if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
            raise LoadError(
                f"{self._path}: its model is of the class {name!r}, whose layers only its own code can make; load it "
                "with that code in Keras 2, build the same layers as a functional model and save that"
            )
        if name not in _MODELS and not self._given(name):
            raise unknown_class(self._path, name.rpartition(">")[2], "its model is of the ")
        if any("class_name" not in layer or "config" not in layer for layer in config["layers"]):
            raise LoadError(f"{self._path}: it is damaged: a layer in it has no class or no configuration")
        functional = "input_layers" in config
        config = self._functional(config) if functional else self._sequential(config)
        if self._given(name):
            return self._entry(entry, None, config)
        name = "Model" if functional else "Sequential"
        return {"module": "keras", "class_name": name, "config": config, "registered_name": name}

    def _sequential(self, config: Config) -> Config:
        layers = config["layers"]
        config["name"] = self._renamed(config.get("name", "sequential"))
        entries = [self._layer(copy.deepcopy(layer)) for layer in layers]
        if layers and layers[0]["class_name"] != "InputLayer":
            shape = _input_shape(layers[0]) or config.get("build_input_shape")
            if shape is None:
                raise LoadError(
                    f"{self._path}: model {config['name']!r} does not say the shape of its input; load it in Keras 2, "
                    "call it once on data and save it again"
                )
            first = entries[0]["config"]
            dtype = layers[0]["config"].get("dtype")
            # Keras 2 gives the input the first layer's dtype, an Embedding's ids included.
            dtype = dtype if isinstance(dtype, str) and "float16" not in dtype else "float32"
            name = f"{first['name']}_input"
            self._change("the input {layers}, which Keras 2 implied, was added", f"{name} {_plain(shape)}")
            entries.insert(0, _input_layer(name, shape, dtype))
        result = {"name": config["name"], "layers": entries}
        return {**result, "trainable": config["trainable"]} if "trainable" in config else result

    def _functional(self, config: Config) -> Config:
        layers = config["layers"]
        offsets = {layer["name"]: _node_offset(layer) for layer in layers}
        functional = {layer["name"] for layer in layers if _is_functional(layer)}
        config["name"] = self._renamed(config.get("name") or "model")
        config["layers"] = []
        for layer in layers:
            nodes = [self._node(layer, node, offsets) for node in layer.get("inbound_nodes", [])]
            entry = self._layer(layer)
            config["layers"].append({**entry, "name": entry["config"]["name"], "inbound_nodes": nodes})

        def end(reference: Any) -> Any:
            if _is_tensor(reference, offsets):
                name, node, tensor = reference[:3]
                # Keras 3 counts from 1 here where a nested model is functional.
                return [self._rename(name), node - offsets[name] + (name in functional), tensor]
            if isinstance(reference, dict):
                return {key: end(value) for key, value in reference.items()}
            if not isinstance(reference, list):
                raise ValueError(f"{reference!r} is no tensor")
            ends = [end(value) for value in reference]
            return ends[0] if len(ends) == 1 else ends

        for key in ("input_layers", "output_layers"):
            config[key] = end(config[key])
        return {
            k: v for k, v in config.items() if k in ("name", "trainable", "layers", "input_layers", "output_layers")
        }

    def _node(self, layer: Config, node: Any, offsets: Mapping[str, int]) -> Config:
        """One call of a layer: Keras 2's nested lists of [layer, node, tensor, arguments]."""
        if isinstance(node, dict) and "args" in node:
            return node
        kwargs: Config = {}

        def tensor(reference: Any) -> Any:
            name, index, position = reference[:3]
            history = [self._rename(name), index - offsets[name], position]
            # Only the history is read; the shape is found again when the layers are called.
            return {
                "class_name": "__keras_tensor__",
                "config": {"shape": [], "dtype": "float32", "keras_history": history},
            }

        def structure(value: Any, leaf: int) -> Any:
            if _is_tensor(value, offsets, leaf):
                if len(value) == 4:
                    kwargs.update(value[3] or {})
                return tensor(value)
            if isinstance(value, list) and value[:1] == ["_CONSTANT_VALUE"]:
                if layer["class_name"] in operators.LAYERS and len(value) == 4:
                    kwargs.update(value[3] or {})
                    return value[2]
                raise LoadError(
                    f"{self._path}: layer {layer['name']!r} is called on a constant, which Keras 3 does not read; "
                    "load it in Keras 2, replace the constant by a layer and save it again"
                )
            if isinstance(value, dict):
                return {key: structure(inner, leaf) for key, inner in value.items()}
            return [structure(inner, leaf) for inner in value] if isinstance(value, list) else value

        first = structure(node, 4)
        if isinstance(first, list) and len(first) == 1:
            first = first[0]
        # None is what each of them is without being named, and Keras 3 does not know all of them.
        kwargs = {key: structure(value, 3) for key, value in kwargs.items() if value is not None}
        if isinstance(first, list) and self._base(layer["class_name"]) in _RECURRENT:
            # Keras 2 hands the initial states to a recurrent layer behind its input.
            states = first[1:]
            first, kwargs["initial_state"] = first[0], states
        return {"args": [first], "kwargs": kwargs}

    def _layer(self, entry: Config) -> Config:
        name, config = entry["class_name"], entry["config"]
        if isinstance(config, list) or (isinstance(config, dict) and isinstance(config.get("layers"), list)):
            return self.model(entry)
        label = str(config.get("name") or entry.get("name") or name)
        if name in operators.LAYERS and config.get("function") in operators.TABLE:
            self._change("TensorFlow's operations between layers became those of keras.ops: {layers}", label)
            config = {"name": self._rename(label), "function": config["function"]}
            return {"module": None, "class_name": "Keras2Operation", "config": config, "registered_name": _OPERATION}
        if name in options.GONE:
            operation = config.get("function") or (config.get("node_def") or {}) or ""
            named = f" ({operation})" if isinstance(operation, str) and operation else ""
            raise LoadError(
                f"{self._path}: layer {label!r} is a {name}{named}, {options.GONE[name]}; Keras 3 cannot load it: load "
                "the model in Keras 2, replace it by a layer that Keras 3 has, and save it again"
            )
        if (cure := options.OF_THE_OPTIMIZATION_TOOLKIT.get(name.rpartition(">")[2])) and not self._given(name):
            raise LoadError(
                f"{self._path}: layer {label!r} is a {name} of TensorFlow's Model Optimization Toolkit; {cure}, then "
                "save that"
            )
        base = self._base(name)
        if base is None:
            raise unknown_class(self._path, name.rpartition(">")[2], f"layer {label!r} is of the ")
        if self._backend == "theano" and base.startswith(_CONVOLUTIONS):
            raise LoadError(
                f"{self._path}: it was written with the backend Theano, which flips the kernels of {name} {label!r}; "
                "load it in Keras 2 with the TensorFlow backend and save it again"
            )
        config = self._cured(label, name, base, config)
        if base == "Lambda" and not self._given(name):
            config = self._lambda(label, config)
        return self._entry(
            {**entry, "class_name": name}, None if self._given(name) else _RENAMED.get(name, name), config
        )

    def _cured(self, label: str, name: str, base: str, config: Config) -> Config:
        """A layer's options without what Keras 3 calls otherwise, or does not have."""
        if "/" in label:
            self._change("renamed, as a name in Keras 3 has no slash: {layers}", f"{label} -> {self._rename(label)}")
        if config.get("name") is not None:
            config["name"] = self._rename(config["name"])
        elif not base.endswith("Cell"):
            config["name"] = self._rename(label)
        if base == "InputLayer":
            config["batch_shape"] = _plain(config.pop("batch_input_shape", config.get("batch_shape")))
        if name in _CUDNN:
            config = {**config, **_CUDNN[name]}
            self._change("CuDNN layers became the plain ones, their weights rearranged: {layers}", label)
        if base in _GATED and "recurrent_activation" not in config:
            raise LoadError(
                f"{self._path}: {base} {label!r} does not say its recurrent_activation, whose default was "
                "hard_sigmoid or sigmoid by version; load it in the Keras 2 that wrote it and save it again"
            )
        if base in ("GRU", "GRUCell") and "reset_after" not in config:
            config["reset_after"] = False
            self._change("reset_after is False, as in the version that wrote it: {layers}", label)
        implementation = config.get("implementation", 2)
        if implementation != 2 and config.get("dropout") and not config.get("recurrent_dropout"):
            self._change(
                "one input mask for all gates, as Keras 3 draws it (Keras 2's implementation=1 drew one for each): "
                "{layers}",
                label,
            )
        if base == "Bidirectional" and self._masks and re.fullmatch(r"2\.[0-3]\.\d+", self._version):
            self._change(
                "masked steps of a sequence are zero, as in tf.keras, where Keras before 2.4 repeated the step before: "
                "{layers}",
                label,
            )
        if base == "BatchNormalization" and isinstance(axis := config.get("axis"), list) and len(axis) == 1:
            config["axis"] = axis[0]
        if base == "LeakyReLU" and "alpha" in config:
            config["negative_slope"] = config.pop("alpha")
        for key, harmless in options.KEYS.items():
            if key not in config or base not in options.OF_SOME.get(key, (base,)) or self._takes(name, base, key):
                continue
            value = config.pop(key)
            if harmless is not options.ANY and value != harmless:
                raise LoadError(
                    f"{self._path}: layer {label!r} has {key}={value!r}, which Keras 3 does not have; load it in "
                    "Keras 2, build that layer otherwise and save it again"
                )
        return {key: self._value(label, key, value) for key, value in config.items()}

    def _value(self, label: str, key: str, value: Any) -> Any:
        """What stands under a layer's key: plain, an object, or a layer."""
        if isinstance(value, list):
            return [self._value(label, key, item) for item in value]
        if not isinstance(value, dict):
            return self._activation(label, key, value) if isinstance(value, str) and key != "name" else value
        if value.get("type") == "ndarray":
            # Keras 2.0's way to write NumPy's numbers
            return value["value"]
        if "class_name" not in value:
            return {k: self._value(label, k, v) for k, v in value.items()}
        name = value["class_name"]
        if name in ("__tuple__", "TensorShape"):
            return [self._value(label, key, item) for item in value["items"]]
        if name in ("Policy", "PolicyV1"):
            return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": value["config"]["name"]}}
        if name.startswith("__"):
            return value
        if name == "function":
            return self._activation(label, key, value["config"])
        if self._base(name) is not None or name in options.GONE or isinstance(value.get("config"), list):
            return self._layer(value)
        for kind in ("initializers", "regularizers", "constraints"):
            if hasattr(getattr(keras, kind), name) and not self._given(name):
                inner = {k: v for k, v in (value.get("config") or {}).items() if k != "dtype"}
                if inner.get("distribution") == "normal":
                    inner["distribution"] = "truncated_normal"
                return {"module": f"keras.{kind}", "class_name": name, "config": inner, "registered_name": None}
        if self._given(name):
            return self._entry(value, None, value.get("config") or {})
        if _is_layer_key(key):
            raise unknown_class(self._path, name.rpartition(">")[2], f"layer {label!r} holds the ")
        return value

    def _activation(self, label: str, key: str, name: str) -> Any:
        """A function's name, or a text of another kind, which stays."""
        if name == "hard_sigmoid" and name not in self._custom:
            self._change("hard_sigmoid is Keras 2's, clip(0.2 x + 0.5, 0, 1), and not Keras 3's: {layers}", label)
            return keras.saving.serialize_keras_object(keras2_hard_sigmoid)
        if key not in ("activation", "recurrent_activation"):
            return name
        bare = name.rpartition(">")[2]
        if isinstance(self._given(name), FunctionType):
            return {"module": None, "class_name": "function", "config": bare, "registered_name": self._key(name)}
        name = options.ACTIVATION_NAMES.get(name, name)
        if not hasattr(keras.activations, name):
            raise unknown_class(self._path, bare, f"layer {label!r} calls the ", "function")
        return name

    def _lambda(self, label: str, config: Config) -> Config:
        for key in ("module", "function_type", "output_shape_type", "output_shape_module", "arguments_type"):
            kind = config.pop(key, None)
            if key == "output_shape_type" and kind in ("lambda", "function"):
                config.pop("output_shape", None)
        function = config["function"]
        named = function if isinstance(function, str) else None
        if isinstance(function, dict) and function.get("class_name") == "function":
            named = function["config"]
        if named is not None:
            if named not in self._custom:
                raise unknown_class(self._path, named, f"Lambda {label!r} calls the ", "function")
            config["function"] = {"module": None, "class_name": "function", "config": named, "registered_name": named}
            return config
        if not self._trust_code:
            raise lambda_refused(self._path, label)
        if isinstance(function, list):
            code, defaults, closure = function
            inner = {"code": code, "defaults": defaults, "closure": closure}
            config["function"] = {"class_name": "__lambda__", "config": inner}
        return config

    def _base(self, name: str) -> str | None:
        """The class of Keras 3 that a class is, or is made from; None where there is none."""
        given = self._given(name)
        if given is None:
            name = _RENAMED.get(name, name)
            return name if isinstance(getattr(keras.layers, name, None), type) or name == "Functional" else None
        if not isinstance(given, type):
            return None
        names = (cls.__name__ for cls in given.__mro__ if getattr(keras.layers, cls.__name__, None) is cls)
        return next(names, "Layer")

    def _takes(self, name: str, base: str, key: str) -> bool:
        """Whether a given class may mean something of its own by a key."""
        given = self._given(name)
        if given is None or key == "batch_input_shape":
            return False
        return base == "Layer" or key in inspect.signature(given.__init__).parameters

    def _given(self, name: str) -> Any:
        return (
            self._custom.get(name)
            or self._custom.get(name.rpartition(">")[2])
            or (keras.saving.get_registered_object(name) if ">" in name else None)
        )

    def _entry(self, entry: Config, name: str | None, config: Config) -> Config:
        """An object in Keras 3's form: of Keras' own class ``name``, or of a given one."""
        if name is not None:
            return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}
        given, key = self._given(entry["class_name"]), self._key(entry["class_name"])
        return {"module": None, "class_name": given.__name__, "config": config, "registered_name": key}

    def _key(self, name: str) -> str:
        """Under which name a given class or function is known."""
        given = self._given(name)
        return next((key for key, value in self._custom.items() if value is given), name)

    def _rename(self, name: str) -> str:
        return re.sub(r"/", "_", name)

    def _renamed(self, name: str) -> str:
        if "/" in name:
            self._change("renamed, as a name in Keras 3 has no slash: {layers}", f"{name} -> {self._rename(name)}")
        return self._rename(name)

    def _change(self, line: str, layer: str) -> None:
        self._changed.setdefault(line, []).append(layer)


def unknown_class(path: object, name: str, lead: str = "it holds the ", kind: str = "class") -> LoadError:
    """The error for a class or function that nobody gave, with the line to add."""
    return LoadError(
        f"{path}: {lead}{kind} {name!r}, which is not Keras'; give it: --custom FILE.py with the file that defines "
        f"it, or custom_objects={{{name!r}: {name}}} in Python"
    )


def _is_layer_key(key: str) -> bool:
    return key in ("layer", "backward_layer", "forward_layer", "cell", "cells", "layers")


def _is_functional(layer: Config) -> bool:
    return isinstance(layer["config"], dict) and "input_layers" in layer["config"]


def _node_offset(layer: Config) -> int:
    """From which number Keras 2 counts the calls of a layer: nested models have one from their making."""
    config = layer["config"]
    nested = isinstance(config, list) or "layers" in config
    if not nested:
        return 0
    used = 1 if _is_functional(layer) else None
    if used is None:
        layers = config if isinstance(config, list) else config["layers"]
        used = int(bool(layers) and (layers[0]["class_name"] == "InputLayer" or _input_shape(layers[0]) is not None))
    return used


def _is_tensor(value: Any, names: Mapping[str, int], longest: int = 4) -> bool:
    return (
        isinstance(value, list)
        and 3 <= len(value) <= longest
        and isinstance(value[0], str)
        and value[0] in names
        and all(isinstance(n, int) for n in value[1:3])
    )


def _input_shape(layer: Config) -> Any:
    """The batch shape that a first layer implies: its own, that of the layer it wraps, or of a nested model's first."""
    config = layer["config"]
    if isinstance(config, list) or "layers" in config:
        layers = config if isinstance(config, list) else config["layers"]
        return _input_shape(layers[0]) if layers else None
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    if shape is not None:
        shape = list(_plain(shape))
        length = config.get("input_length")
        if layer["class_name"] == "Embedding" and len(shape) == 2 and isinstance(length, int):
            shape[1] = length
        return shape
    return _input_shape(config["layer"]) if isinstance(config.get("layer"), dict) else None


def _plain(shape: Any) -> Any:
    if isinstance(shape, dict) and "items" in shape:
        shape = shape["items"]
    return list(shape) if isinstance(shape, (list, tuple)) else shape


def _input_layer(name: str, shape: Any, dtype: str) -> Config:
    return {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "config": {"batch_shape": _plain(shape), "dtype": dtype, "name": name},
        "registered_name": None,
    }
