"""The loader's cure for custom layers that Keras 3 cannot build."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras

# What Keras writes of any layer, whether its class takes it or not.
_OF_ANY_LAYER = {"name", "trainable", "dtype"}


def buildable(thing: Any) -> Any:
    """A custom layer class as Keras 3 can make and build it: the class itself, or one of its name that calls it.

    ``class MonteCarloLSTM(LSTM): def call(self, inputs): return super().call(inputs, training=True)`` worked in
    Keras 2. Keras 3 takes from ``call`` the names that ``build`` is given, and from its signature whether it takes a
    mask: such a ``call`` does not fit that of the layer it extends. The class given back has the signature of
    Keras' layer and passes on what ``cls.call`` takes.

    Parameters
    ----------
    thing
        A class; anything else, and a class that fits, is given back as it is.
    """
    if not inspect.isclass(thing):
        return thing
    cls: Any = thing
    stock: Any = next((base for base in cls.__mro__ if base.__module__.startswith("keras.")), None)
    if stock is None or not issubclass(stock, keras.layers.Layer) or issubclass(stock, keras.Model):
        return cls
    cls = _makeable(cls)
    if stock is keras.layers.Layer or cls.build is not stock.build or _fits(cls, stock):
        return cls
    own = inspect.signature(cls.call).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in own.values())

    @functools.wraps(stock.call)
    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        named = inspect.signature(stock.call).bind(self, inputs, *args, **kwargs).arguments
        rest = {name: value for name, value in list(named.items())[2:] if takes_any or name in own}
        return cls.call(self, inputs, **rest)

    return _named_alike(cls, {"call": call})


def _makeable(cls: Any) -> Any:
    """A class whose ``__init__`` takes no name, as one that can be made from what Keras 3 wrote of it.

    Keras 3 notes the arguments of a class without ``get_config``, and adds the options of any layer.
    """
    takes = inspect.signature(cls.__init__).parameters
    own = cls.from_config.__func__ is not keras.layers.Layer.from_config.__func__
    if own or takes.keys() >= _OF_ANY_LAYER or any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        return cls

    def from_config(made: Any, config: dict[str, Any]) -> Any:
        layer = made(**{key: value for key, value in config.items() if key in takes or key not in _OF_ANY_LAYER})
        layer.name, layer.trainable = config.get("name", layer.name), config.get("trainable", True)
        return layer

    return _named_alike(cls, {"from_config": classmethod(from_config)})


def _named_alike(cls: Any, body: dict[str, Any]) -> Any:
    """A subclass with a body of its own; Keras writes a class's module and name, those that its owner knows."""
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls)(cls.__name__, (cls,), {**body, **named})


def _fits(cls: Any, stock: Any) -> bool:
    """Whether a class's ``call`` has the arguments that the ``build`` of Keras' layer is named after."""
    own = inspect.signature(cls.call).parameters
    built_from = [name.removesuffix("_shape") for name in list(inspect.signature(stock.build).parameters)[1:]]
    if any(p.kind is p.VAR_POSITIONAL for p in own.values()):
        return False
    return len(built_from) < 2 or all(name in own for name in built_from)
