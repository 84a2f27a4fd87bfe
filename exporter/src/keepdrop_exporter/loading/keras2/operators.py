"""TensorFlow's operations between layers (``TFOpLambda``, ``SlicingOpLambda``) as Keras 2 saved them, in ``keras.ops``.

The table has functions by TensorFlow's name, with TensorFlow's names of arguments: Keras 2 files give the first one by
position and the others by name. What a function here does not take is refused, not ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keepdrop_exporter.plan import keras_graphs

LAYERS = ("TFOpLambda", "SlicingOpLambda")

Function = Callable[..., Any]


class NotTranslated(ValueError):
    """An operation that is called in a way that the table does not have; the text names it."""


class Keras2Operation(keras.Operation):  # type: ignore[misc]
    """Stands for an operation in a functional description; called on symbolic tensors it leaves stock ones there."""

    def __init__(self, function: str, name: str) -> None:
        super().__init__(name=name)
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call TensorFlow's function of that name as ``keras.ops`` has it.

        Raises
        ------
        NotTranslated
            It was called in another way than the table knows.
        """
        kwargs.pop("name", None)
        try:
            made = TABLE[self.function](*args, **kwargs)
        except Exception as error:  # of any kind: an argument nobody knows, shapes that Keras does not know
            reason = " ".join(str(error).split())[:200]
            raise NotTranslated(
                f"layer {self.name!r} calls TensorFlow's {self.function} in a way that has no counterpart in keras.ops "
                f"({reason}); load the model in Keras 2, replace it by a layer that Keras 3 has, and save it again"
            ) from error
        keras_graphs.note_call(self, made if isinstance(made, list) else [made])
        return made


class _Shape(tuple):  # type: ignore[type-arg]
    """What ``tf.shape`` gives, as far as Keras knows it: None where it does not."""


def _unary(function: Function) -> Function:
    return lambda x: function(x)


def _like(value: Any, other: Any) -> Any:
    """A constant beside a tensor: TensorFlow gives it the tensor's dtype."""
    if isinstance(value, (list, tuple)) and isinstance(other, keras.KerasTensor):
        return np.asarray(value, other.dtype)
    return value


def _binary(function: Function) -> Function:
    return lambda x, y: function(_like(x, y), _like(y, x))


def _divide(x: Any, y: Any) -> Any:
    kinds = {v.dtype for v in (x, y) if isinstance(v, keras.KerasTensor)}
    if any("int" in kind for kind in kinds):
        raise TypeError("integers divided give float64 in TensorFlow")
    return ops.divide(_like(x, y), _like(y, x))


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _reduction(function: Function) -> Function:
    return lambda x, axis=None, keepdims=False: function(x, axis=_axis(axis), keepdims=bool(keepdims))


def _slice_spec(item: Any) -> Any:
    if isinstance(item, dict):
        if item.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(item["start"], item["stop"], item["step"])
    if item is None or item is Ellipsis or isinstance(item, (int, slice)):
        return item
    raise TypeError(f"a slice by {type(item).__name__}")


def _getitem(x: Any, slice_spec: Any) -> Any:
    if isinstance(x, _Shape):
        taken = tuple(x)[_slice_spec(slice_spec[0] if isinstance(slice_spec, list) else slice_spec)]
        return _Shape(taken) if isinstance(taken, tuple) else taken
    return x[tuple(map(_slice_spec, slice_spec)) if isinstance(slice_spec, (list, tuple)) else _slice_spec(slice_spec)]


def _reshape(x: Any, shape: Any) -> Any:
    sizes = [-1 if n is None else int(n) for n in shape]
    if sizes.count(-1) == 2 and sizes[0] == -1 and shape[0] is None and None not in x.shape[1:]:
        # The batch stays, and the other is what remains of a row.
        rest = math.prod(x.shape[1:]) // math.prod(n for n in sizes if n != -1)
        sizes = [-1, *(rest if n == -1 else n for n in sizes[1:])]
    return ops.reshape(x, sizes)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    return ops.matmul(_turned(a) if transpose_a else a, _turned(b) if transpose_b else b)


def _turned(x: Any) -> Any:
    return ops.swapaxes(x, -1, -2)


def _transpose(x: Any, perm: Any = None, conjugate: bool = False) -> Any:
    return ops.transpose(x, axes=perm)


def _norm(x: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = False) -> Any:
    if ord not in ("euclidean", 2):
        raise TypeError(f"ord={ord}")
    return ops.sqrt(ops.sum(ops.square(x), axis=_axis(axis), keepdims=bool(keepdims)))


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=_axis(axis), keepdims=True), epsilon))


def _pad(x: Any, paddings: Any, mode: str = "CONSTANT", constant_values: float = 0) -> Any:
    if mode.upper() != "CONSTANT":
        return ops.pad(x, paddings, mode=mode.lower())
    return ops.pad(x, paddings, mode="constant", constant_values=constant_values)


def _cumsum(x: Any, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    if exclusive or reverse:
        raise TypeError("exclusive or reverse")
    return ops.cumsum(x, axis=axis)


def _gather(x: Any, indices: Any, axis: int = 0, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise TypeError(f"batch_dims={batch_dims}")
    return ops.take(x, np.asarray(indices) if isinstance(indices, list) else indices, axis=axis)


def _unstack(x: Any, num: int | None = None, axis: int = 0) -> Any:
    return list(x) if isinstance(x, _Shape) else list(ops.unstack(x, num, axis=axis))


def _split(x: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    at = num_or_size_splits
    return list(ops.split(x, at if isinstance(at, int) else [int(n) for n in np.cumsum(at)[:-1]], axis=axis))


def _clip(x: Any, clip_value_min: float, clip_value_max: float) -> Any:
    return ops.clip(x, clip_value_min, clip_value_max)


def _add_n(inputs: Any) -> Any:
    total = inputs[0]
    for x in inputs[1:]:
        total = ops.add(total, x)
    return total


def _where(condition: Any, x: Any, y: Any) -> Any:
    return ops.where(condition, _like(x, y), _like(y, x))


def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, dtype if isinstance(dtype, str) else dtype["config"])


_UNARY = {
    "math.abs": ops.abs, "math.exp": ops.exp, "math.expm1": ops.expm1, "math.log": ops.log, "math.log1p": ops.log1p,
    "math.sqrt": ops.sqrt, "math.rsqrt": ops.rsqrt, "math.square": ops.square, "math.negative": ops.negative,
    "math.sign": ops.sign, "math.sin": ops.sin, "math.cos": ops.cos, "math.tan": ops.tan, "math.sinh": ops.sinh,
    "math.cosh": ops.cosh, "math.tanh": ops.tanh, "math.asin": ops.arcsin, "math.acos": ops.arccos,
    "math.atan": ops.arctan, "math.sigmoid": ops.sigmoid, "math.floor": ops.floor, "math.ceil": ops.ceil,
    "math.round": ops.round, "math.reciprocal": ops.reciprocal, "math.erf": ops.erf, "math.softplus": ops.softplus,
    "math.softsign": ops.softsign, "math.log_sigmoid": ops.log_sigmoid, "math.is_nan": ops.isnan,
    "math.is_finite": ops.isfinite, "math.is_inf": ops.isinf, "math.logical_not": ops.logical_not,
    "nn.relu": ops.relu, "nn.relu6": ops.relu6, "nn.elu": ops.elu, "nn.selu": ops.selu, "nn.softsign": ops.softsign,
    "identity": lambda x: x, "stop_gradient": ops.stop_gradient, "zeros_like": ops.zeros_like,
    "ones_like": ops.ones_like,
}  # fmt: skip
_BINARY = {
    "__operators__.add": ops.add, "__operators__.eq": ops.equal, "__operators__.ne": ops.not_equal,
    "math.add": ops.add, "math.subtract": ops.subtract, "math.multiply": ops.multiply, "math.pow": ops.power,
    "math.maximum": ops.maximum, "math.minimum": ops.minimum, "math.floordiv": ops.floor_divide,
    "compat.v1.floor_div": ops.floor_divide, "math.floormod": ops.mod, "math.divide_no_nan": ops.divide_no_nan,
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)), "math.atan2": ops.arctan2,
    "math.greater": ops.greater, "math.greater_equal": ops.greater_equal, "math.less": ops.less,
    "math.less_equal": ops.less_equal, "math.equal": ops.equal, "math.not_equal": ops.not_equal,
    "math.logical_and": ops.logical_and, "math.logical_or": ops.logical_or, "math.logical_xor": ops.logical_xor,
}  # fmt: skip
_REDUCTIONS = {
    "math.reduce_mean": ops.mean, "math.reduce_sum": ops.sum, "math.reduce_max": ops.max, "math.reduce_min": ops.min,
    "math.reduce_prod": ops.prod, "math.reduce_std": ops.std, "math.reduce_variance": ops.var,
    "math.reduce_logsumexp": ops.logsumexp, "math.reduce_any": ops.any, "math.reduce_all": ops.all,
}  # fmt: skip

TABLE: dict[str, Function] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    **{name: _reduction(function) for name, function in _REDUCTIONS.items()},
    "__operators__.getitem": _getitem,
    "math.truediv": _divide,
    "math.divide": _divide,
    "math.add_n": _add_n,
    "math.argmax": lambda x, axis=0: ops.argmax(x, axis=axis),
    "math.argmin": lambda x, axis=0: ops.argmin(x, axis=axis),
    "math.cumsum": _cumsum,
    "math.l2_normalize": _l2_normalize,
    "linalg.matmul": _matmul,
    "norm": _norm,
    "compat.v1.norm": _norm,
    "nn.leaky_relu": lambda x, alpha=0.2: ops.leaky_relu(x, negative_slope=alpha),
    "nn.gelu": lambda x, approximate=False: ops.gelu(x, approximate=approximate),
    "nn.silu": lambda x, beta=1.0: x * ops.sigmoid(beta * x) if beta != 1.0 else ops.silu(x),
    "nn.softmax": lambda x, axis=-1: ops.softmax(x, axis=axis),
    "nn.log_softmax": lambda x, axis=-1: ops.log_softmax(x, axis=axis),
    "nn.bias_add": lambda value, bias: ops.add(value, _like(bias, value)),
    "cast": _cast,
    "clip_by_value": _clip,
    "concat": lambda values, axis: ops.concatenate(values, axis=axis),
    "stack": lambda values, axis=0: ops.stack(values, axis=axis),
    "unstack": _unstack,
    "split": _split,
    "expand_dims": lambda x, axis: ops.expand_dims(x, axis),
    "squeeze": lambda x, axis=None: ops.squeeze(x, axis=_axis(axis)),
    "compat.v1.squeeze": lambda x, axis=None: ops.squeeze(x, axis=_axis(axis)),
    "reshape": _reshape,
    "keras.backend.batch_flatten": lambda x: _reshape(x, [-1, math.prod(x.shape[1:])]),
    "transpose": _transpose,
    "compat.v1.transpose": _transpose,
    "reverse": lambda x, axis: ops.flip(x, axis=_axis(axis)),
    "tile": lambda x, multiples: ops.tile(x, multiples),
    "repeat": lambda x, repeats, axis: ops.repeat(x, repeats, axis=axis),
    "roll": lambda x, shift, axis: ops.roll(x, shift, axis=axis),
    "pad": _pad,
    "compat.v1.pad": _pad,
    "gather": _gather,
    "compat.v1.gather": _gather,
    "where": _where,
    "shape": lambda x, out_type=None: _Shape(x.shape),
    "compat.v1.shape": lambda x, out_type=None: _Shape(x.shape),
}
