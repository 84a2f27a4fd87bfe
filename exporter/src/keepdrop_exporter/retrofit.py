"""Dropout where it is wanted: the same network, weights and deterministic output, with other rates.

A rate is named by its place:

    LAYER             the rate of a dropout layer, or the dropout of an attention layer
    LAYER.input       the ``dropout`` of a recurrent layer; a Dropout put before any other layer
    LAYER.recurrent   the ``recurrent_dropout`` of a recurrent layer

``LAYER`` is the layer's name, with slashes into nested models; it may be a glob, whose ``*`` takes
slashes too. The layers are made anew from their own configs, and the weights copied.
"""

from __future__ import annotations

import fnmatch
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keepdrop_exporter.loading.fitting import Shape
from keepdrop_exporter.loading.live import taken
from keepdrop_exporter.plan import ATOL, RTOL
from keepdrop_exporter.plan.draws import Plan, call_model, tensors
from keepdrop_exporter.plan.inputs import random_batches

from . import writing
from .errors import RetrofitError
from .plan import keras_graphs, keras_hooks
from .scaling import scaled

_DROPOUTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
)
_ATTENTIONS = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
)
_ARGUMENTS = {".input": "dropout", ".recurrent": "recurrent_dropout"}

Key = tuple[Any, ...]
"""Where a value stands in a layer's config: keys and list indices, from outside in."""


def with_dropout(model: keras.Model, dropout: Mapping[str, float]) -> keras.Model:
    """The same model with other dropout rates; the one given is left alone.

    Parameters
    ----------
    model
        A functional or sequential model.
    dropout
        Rates from 0 to below 1 by place: ``"lstm.recurrent"``, ``"dense.input"``, ``"dropout_1"``, globs such as
        ``"*.recurrent"``. Where two name the same place the later one counts.

    Returns
    -------
    keras.Model
        A stock Keras model, not compiled, whose layers, weights, names of inputs and outputs and output without
        dropout are those of ``model``.

    Raises
    ------
    RetrofitError
        A name matches nothing, a rate is none, or a place cannot take one; or the output would change.

    Examples
    --------
    >>> mc = with_dropout(model, {"lstm.recurrent": 0.25, "dropout_1": 0})
    """
    return _Retrofit(model, dropout).built()


def retrofitted(model: keras.Model, dropout: Mapping[str, float]) -> tuple[keras.Model, tuple[str, ...]]:
    """``with_dropout`` and a line for each change; the model itself where there is nothing to set."""
    if not dropout:
        return model, ()
    retrofit = _Retrofit(model, dropout)
    return retrofit.built(), retrofit.changes


def places(model: keras.Model) -> dict[str, float | None]:
    """Where rates can be set, in the order of the layers, and the rate that is there; None where no dropout is yet.

    Raises
    ------
    RetrofitError
        The model is not functional, or is stateful.
    """
    found = _Retrofit(model, {})._places
    return {name: place.rate if place.keys else None for name, place in found.items()}


def save_with_dropout(
    model: keras.Model | str | Path,
    path: str | Path,
    dropout: Mapping[str, float],
    input_scaler: Any = None,
    output_scaler: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
    input_shapes: Mapping[str, Shape] | Shape | None = None,
) -> tuple[str, ...]:
    """Write a Keras model with other dropout rates to a ``.keras`` file, which plain Keras loads.

    Parameters
    ----------
    model
        A Keras model, or its file.
    path
        The file to write; it gets its name once its output without dropout is found equal to the model's.
    dropout
        As in ``with_dropout``.
    input_scaler, output_scaler
        As ``inputs`` and ``outputs`` of ``with_scaling``, which comes after it.
    custom_objects, weights, trust_code, input_shapes
        How a file is loaded, or a model without inputs is called; see ``load``.

    Returns
    -------
    tuple of str
        A line for each change, those of loading first, and for what plain Keras needs to load the file.

    Raises
    ------
    LoadError, RetrofitError, ScalingError
        As ``with_dropout`` and ``with_scaling``; or the path is none that can be written.
    InputError
        It is that of a file that is read.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise RetrofitError(f"{target}: there is no folder {target.parent}; make it first")
    if target.suffix != ".keras" or target.is_dir():
        raise RetrofitError(f"{target}: a Keras model is written to a file; let its name end in .keras")
    writing.refuse_overwriting(
        {"the new model": target},
        {
            "the model": model,
            "the weights": weights,
            "the scaler of the inputs": input_scaler,
            "the scaler of the outputs": output_scaler,
        },
    )
    given = taken(model, custom_objects, weights, trust_code=trust_code, input_shapes=input_shapes)
    source = given.model
    made, changes = retrofitted(source, dropout)
    made, lines = scaled(made, input_scaler, output_scaler)
    with writing.temporary_beside(target) as partial:
        made.save(partial)
        # What it holds came from the model given, its code included.
        loaded = keras.models.load_model(
            partial, custom_objects=_custom_objects(source), compile=False, safe_mode=False
        )
        _refuse_other_output(made if lines else source, loaded)
        writing.replace(partial, target)
    # Keras stores registered objects under the name of their package; importing that alone does not register them.
    needs = (
        "it has functions or layers of keepdrop's: before keras.models.load_model, from keepdrop_exporter import load",
    )
    return (*given.changes, *changes, *lines, *(needs if '"keepdrop>' in made.to_json() else ()))


@dataclass
class _Place:
    """Where a rate is set: in the config of a layer of the graph, or by a Dropout before it where there are no keys."""

    layer: keras.Layer
    keys: list[Key] = field(default_factory=list)
    rate: float = 0.0


class _Retrofit:
    """One retrofit of one model: what is to be set, and the model made anew."""

    def __init__(self, model: keras.Model, dropout: Mapping[str, float]) -> None:
        self._model = model
        if isinstance(model, keras.Sequential) and not model.built:
            raise RetrofitError(f"model {model.name!r} has no input yet; let it begin with keras.Input(shape=...)")
        if keras_graphs.layer_graph(model) is None:
            raise RetrofitError(
                f"model {model.name!r} is of the class {type(model).__name__}, whose own code makes and calls its "
                "layers: set their rates there, or build the network as a functional model"
            )
        self._paths = keras_hooks.layer_paths(model)
        for layer in keras_hooks.all_layers(model):
            if getattr(layer, "stateful", False):
                raise RetrofitError(
                    f"layer {self._paths.get(id(layer), layer.name)!r} is stateful, so that what the model gives "
                    "depends on what it was given before; export it with --dropout and --streaming, or build it "
                    "again with stateful=False and load the weights"
                )
        self._places: dict[str, _Place] = {}
        self._reasons: dict[str, str] = {}
        self._find(model)
        rates = self._chosen(dropout)
        self.changes = tuple(
            _line(name, place, rates[name])
            for name, place in self._places.items()
            if name in rates and rates[name] != place.rate
        )
        self._edits: dict[int, list[tuple[Key, float]]] = {}
        self._dropouts: dict[int, float] = {}
        for name, rate in rates.items():
            place = self._places[name]
            if place.keys:
                self._edits.setdefault(id(place.layer), []).extend((key, rate) for key in place.keys)
            elif rate:
                self._dropouts[id(place.layer)] = rate
        self._copies: dict[int, Any] = {}
        self._originals: list[keras.Layer] = []
        self._inserted: dict[int, keras.Layer] = {}

    def built(self) -> keras.Model:
        """The model with its rates set, its output found unchanged."""
        with keras.saving.custom_object_scope(_custom_objects(self._model)):
            made = self._copy(self._model)
        self._copy_state()
        _refuse_other_output(self._model, made)
        return made

    def _find(self, model: keras.Model) -> None:
        """List every place of a model, and why others are none."""
        for layer in keras_graphs.graph_operations(model):
            if not isinstance(layer, keras.Layer) or (path := self._paths[id(layer)]) in self._reasons:
                continue
            self._reasons[path] = f"its class {type(layer).__name__} has no dropout rate of its own"
            nested = keras_graphs.layer_graph(layer) is not None
            for name, keys, rate in [] if nested else self._settings(layer, path, ()):
                self._places.setdefault(name, _Place(layer, [], rate)).keys.extend(keys)
            if nested:
                self._find(layer)
            if f"{path}.input" not in self._places and not isinstance(_innermost(layer), keras.layers.RNN):
                reason = self._no_input(model, layer)
                if reason:
                    self._reasons[f"{path}.input"] = reason
                else:
                    self._places[f"{path}.input"] = _Place(layer)

    def _settings(self, layer: keras.Layer, path: str, at: Key) -> Iterator[tuple[str, list[Key], float]]:
        """Each rate in a layer's config: its name, where it stands and what it is."""
        if isinstance(layer, _DROPOUTS):
            yield path, [(*at, "rate")], layer.rate
        elif isinstance(layer, _ATTENTIONS):
            yield path, [(*at, "dropout")], layer.get_config()["dropout"]
        elif isinstance(layer, keras.layers.Bidirectional):
            for name, inner in (("layer", layer.forward_layer), ("backward_layer", layer.backward_layer)):
                yield from self._settings(inner, path, (*at, name, "config"))
        elif isinstance(layer, keras.layers.TimeDistributed):
            yield from self._settings(layer.layer, self._paths[id(layer.layer)], (*at, "layer", "config"))
        elif isinstance(layer, keras.layers.RNN):
            self._reasons[path] = f"a recurrent layer has two rates: {path}.input and {path}.recurrent"
            cells = list(_cells(layer, at))
            for suffix, argument in _ARGUMENTS.items():
                without = [cell for cell, _ in cells if not hasattr(cell, argument)]
                if without:
                    self._reasons[path + suffix] = (
                        f"its cell {without[0].name!r} of class {type(without[0]).__name__} has no {argument}"
                    )
                else:
                    yield path + suffix, [(*key, argument) for _, key in cells], getattr(cells[0][0], argument)

    def _no_input(self, model: keras.Model, layer: keras.Layer) -> str | None:
        """Why no Dropout can be put before a layer, if so."""
        if isinstance(layer, keras.layers.InputLayer):
            return "it is an input: put the dropout before the layers that read it"
        if isinstance(layer, _DROPOUTS):
            return "it is a dropout itself: set its rate by its name alone"
        taken = keras_graphs.taken_tensors(model, layer)
        if any(len(tensors) != 1 for tensors in taken):
            return f"it takes {max(map(len, taken))} tensors: put the dropout before the layers that make them"
        if any("float" not in x.dtype for tensors in taken for x in tensors):
            return "it reads integers, which dropout would turn into others: set it after this layer"
        return None

    def _chosen(self, dropout: Mapping[str, float]) -> dict[str, float]:
        """The rate of every place that is named."""
        rates: dict[str, float] = {}
        for pattern, rate in dropout.items():
            if isinstance(rate, bool) or not isinstance(rate, float | int | np.number) or not 0 <= rate < 1:
                raise RetrofitError(f"{pattern}={rate}: a dropout rate is a number from 0 to below 1")
            if pattern in self._places:
                names = [pattern]
            else:
                suffix = next((s for s in _ARGUMENTS if pattern.endswith(s)), "")
                names = [n for n in self._places if _suffix(n) == suffix and fnmatch.fnmatchcase(n, pattern)]
            if not names:
                raise RetrofitError(self._nothing(pattern))
            rates.update(dict.fromkeys(names, float(rate)))
        return rates

    def _nothing(self, pattern: str) -> str:
        """What to say of a name that is no place."""
        there = f"rates can be set at {', '.join(self._places) or 'no place of this model'}"
        layer = pattern.removesuffix(_suffix(pattern))
        if reason := self._reasons.get(pattern):
            return f"layer {layer!r} takes no rate as {pattern!r}: {reason}; {there}"
        if layer in self._reasons:
            return f"layer {layer!r} is not recurrent, so there is no {pattern!r}; {there}"
        parts = layer.split("/")
        for outer in ("/".join(parts[:i]) + _suffix(pattern) for i in range(len(parts) - 1, 0, -1)):
            if layer in self._paths.values() and outer in self._places and self._places[outer].keys:
                return f"layer {layer!r} takes no rate of its own: {outer!r} sets all that is in that layer; {there}"
        if layer in self._paths.values():
            return f"layer {layer!r} lies in a layer that is copied as a whole: set its rate where it is made; {there}"
        return f"{pattern!r} matches nothing in model {self._model.name!r}; {there}"

    def _copy(self, layer: Any) -> Any:
        """A layer, operation or model made anew, once each."""
        if id(layer) in self._copies:
            return self._copies[id(layer)]
        nested = keras_graphs.layer_graph(layer) is not None
        made = keras_graphs.rebuilt(layer, self._copy, self._before) if nested else self._copy_of_leaf(layer)
        self._copies[id(layer)] = made
        if isinstance(layer, keras.Layer):
            self._originals.append(layer)
        return made

    def _before(self, layer: keras.Layer) -> keras.Layer | None:
        """The Dropout to put before a layer, the same wherever it is called."""
        rate = self._dropouts.get(id(layer))
        if rate is not None and id(layer) not in self._inserted:
            self._inserted[id(layer)] = keras.layers.Dropout(rate, name=self._free_name(f"{layer.name}_dropout"))
        return self._inserted.get(id(layer))

    def _copy_of_leaf(self, layer: Any) -> Any:
        name = self._paths.get(id(layer), layer.name)
        if isinstance(layer, keras.layers.Lambda):
            # Its config would take the function apart and lose what it refers to.
            return keras_hooks.copy_of_lambda(layer)
        try:
            config = layer.get_config()
            for keys, rate in self._edits.get(id(layer), []):
                _set(config, keys, rate)
            return type(layer).from_config(config)
        except Exception as error:  # of any kind: a class of the user's own makes its config
            reason = " ".join(str(error).split())[:300]
            raise RetrofitError(
                f"layer {name!r} of class {type(layer).__name__} cannot be made again from its get_config() "
                f"({type(error).__name__}: {reason}); let get_config() return every argument of __init__"
            ) from error

    def _free_name(self, name: str) -> str:
        taken = {layer.name for layer in keras_hooks.all_layers(self._model)}
        taken |= {layer.name for layer in self._inserted.values()}
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    def _copy_state(self) -> None:
        """Weights, and flags from outside in: setting that of a model sets those of its layers and variables."""
        for layer in reversed(self._originals):
            made = self._copies[id(layer)]
            layers = [[layer], [made]]
            if keras_graphs.layer_graph(layer) is None:
                layers = [keras_hooks.all_layers(each) for each in (layer, made)]
            for old, new in zip(*layers, strict=False):
                new.trainable = old.trainable
        for layer in self._originals:
            made = self._copies[id(layer)]
            if keras_graphs.layer_graph(layer) is not None:
                continue
            if [w.shape for w in layer.weights] != [w.shape for w in made.weights]:
                raise RetrofitError(
                    f"layer {self._paths.get(id(layer), layer.name)!r} of class {type(layer).__name__} has other "
                    "weights when it is made again from its get_config(); let get_config() return every argument of "
                    "__init__"
                )
            for old, new in zip(layer.weights, made.weights, strict=True):
                new.assign(old)
                new.trainable = old.trainable
            if isinstance(made, keras.layers.Normalization):
                made.finalize_state()


class _Still:
    """Stands in for Keras' random functions and draws nothing, for layers that draw even with ``training=False``."""

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        return inputs

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        return tf.fill(shape, tf.cast(minval, dtype or "float32"))

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        return tf.fill(shape, tf.cast(mean, dtype or "float32"))

    def unsupported(self, kind: str) -> None:
        raise RetrofitError(f"the model draws through keras.random.{kind}, so that no two of its outputs compare")


def _refuse_other_output(model: keras.Model, other: keras.Model) -> None:
    """Compare names, weights and the outputs without dropout on random inputs."""
    inputs, outputs = tensors(model)
    if (inputs, outputs) != tensors(other):
        raise RetrofitError(f"the inputs and outputs would change, from {inputs, outputs} to {tensors(other)}")
    if strings := [t.name for t in inputs if t.dtype == "string"]:
        raise RetrofitError(f"input {strings[0]!r} is of strings; look them up before the model and feed it integers")
    rows = model.inputs[0].shape[0] or 3
    for x in random_batches(Plan(model, inputs, outputs, (), ()), rows, 0):
        arrays = [x[t.name] for t in inputs]
        before, after = without_dropout(model, arrays), without_dropout(other, arrays)
        for tensor, old, new in zip(outputs, before, after, strict=True):
            # The order of summation follows the rates: with recurrent dropout Keras takes a product for each gate.
            if not np.allclose(new, old, rtol=RTOL, atol=ATOL, equal_nan=True):
                raise RetrofitError(
                    f"output {tensor.name!r} would change without dropout too, by up to {np.abs(new - old).max():.3g}: "
                    "a layer is not the same when it is made again from its get_config()"
                )


def without_dropout(model: keras.Model, inputs: list[Any]) -> list[Any]:
    """The model's outputs, flat, from flat inputs, with nothing drawn, not even where a layer always draws.

    Raises
    ------
    RetrofitError
        The model draws in a way that has no neutral value.
    """
    with keras_hooks.sampling_state(model), keras_hooks.intercept(_Still()):
        return [np.asarray(y) for y in call_model(model, inputs, training=False)]


def _line(name: str, place: _Place, rate: float) -> str:
    if not place.keys:
        return f"{name}: Dropout({rate:g}) put before it"
    return f"{name}: dropout rate {rate:g}, was {place.rate:g}"


def _suffix(name: str) -> str:
    return next((suffix for suffix in _ARGUMENTS if name.endswith(suffix)), "")


def _set(config: Any, keys: Key, rate: float) -> None:
    *path, last = keys
    for key in path:
        config = config[key]
    if last not in config:
        raise KeyError(f"it holds no {last!r}")
    config[last] = rate


def _cells(layer: keras.layers.RNN, at: Key) -> Iterator[tuple[Any, Key]]:
    """The cells of a recurrent layer, each with where its arguments stand in the layer's config."""
    if "cell" not in layer.get_config():
        yield layer.cell, at
    elif isinstance(layer.cell, keras.layers.StackedRNNCells):
        for i, cell in enumerate(layer.cell.cells):
            yield cell, (*at, "cell", "config", "cells", i, "config")
    else:
        yield layer.cell, (*at, "cell", "config")


def _innermost(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, keras.layers.Bidirectional):
        return layer.forward_layer
    return layer


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """The classes of the model's layers and the functions they hold that are not Keras', by their name in a config."""
    layers = keras_hooks.all_layers(model)
    held = [value for layer in layers for value in vars(layer).values() if inspect.isfunction(value)]
    found: list[Any] = [*(type(layer) for layer in layers), *held]
    return {thing.__name__: thing for thing in found if not thing.__module__.startswith("keras.")}
