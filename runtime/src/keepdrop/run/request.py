"""Request: one call, checked against the artifact before anything runs.

Every mistake of the caller is found here; what comes after may rely on names, dtypes, shapes and lengths.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Optional, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.artifact.metadata import FIRST_SAMPLE, NUM_SAMPLES, ROWS, SEED, Metadata, Tensor
from keepdrop.errors import InputError, TooLarge

from .memory import Budget

INT64 = np.iinfo(np.int64)
# Sample numbers from here on are held against the size of the draws: lower ones are right up to 2**32 numbers a draw.
FAR = 2**31
# Inputs are looked through for NaN in pieces of this many numbers.
PIECE = 1 << 20


class Request(NamedTuple):
    """What the graph is asked for: samples first_sample ... first_sample + samples - 1 of these rows."""

    inputs: dict[str, NDArray[Any]]  # each [batch, ...], those of `per_sample` [samples, batch, ...]
    rows: NDArray[np.int64]  # [batch]
    seed: int
    first_sample: int
    samples: int
    per_sample: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def longest(self) -> int:
        """The longest axis of the inputs, batch and samples left out."""
        longest = 1
        for name, array in self.inputs.items():
            longest = max(longest, *array.shape[2 if name in self.per_sample else 1 :])
        return longest

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Every input of the graph by its name in the artifact."""
        inputs = self.inputs
        if self.per_sample:
            inputs = {**inputs, **{name: np.ascontiguousarray(inputs[name]) for name in self.per_sample}}
        return {
            **inputs,
            SEED: np.array(self.seed, np.int64),
            ROWS: self.rows,
            NUM_SAMPLES: np.array(self.samples, np.int64),
            FIRST_SAMPLE: np.array(self.first_sample, np.int64),
        }

    def cut(self, rows: slice, samples: slice) -> Request:
        """The same request for some of its rows and samples (slices of 0 ... batch and 0 ... samples)."""
        return Request(
            inputs={
                name: array[samples, rows] if name in self.per_sample else array[rows]
                for name, array in self.inputs.items()
            },
            rows=self.rows[rows],
            seed=self.seed,
            first_sample=self.first_sample + samples.start,
            samples=samples.stop - samples.start,
            per_sample=self.per_sample,
        )

    def only(self, rows: NDArray[np.int64]) -> Request:
        """The same request for the rows at these positions."""
        inputs = {
            name: array[:, rows] if name in self.per_sample else array[rows] for name, array in self.inputs.items()
        }
        return self._replace(inputs=inputs, rows=self.rows[rows])

    def row_blocks(self, sample_rows: int) -> Iterator[Request]:
        """Cut into blocks of whole rows, each of at most `sample_rows` samples x rows (but at least one row)."""
        step = max(1, sample_rows // self.samples)
        for start in range(0, self.batch, step):
            yield self.cut(slice(start, min(start + step, self.batch)), slice(0, self.samples))

    def sample_blocks(self, sample_rows: int) -> Iterator[Request]:
        """Cut into blocks of samples, each of at most `sample_rows` samples x rows (but at least one sample)."""
        step = max(1, sample_rows // self.batch)
        for start in range(0, self.samples, step):
            yield self.cut(slice(0, self.batch), slice(start, min(start + step, self.samples)))


class Asked(TypedDict):
    """Which samples of which rows: what every call of a model says, as `check` takes it."""

    samples: Optional[int]
    seed: int
    rows: Optional[ArrayLike]
    first_sample: int


def check(
    metadata: Metadata,
    x: Any,
    *,
    samples: Optional[int],
    seed: int,
    rows: Optional[ArrayLike],
    first_sample: int,
    budget: Optional[Budget] = None,
) -> Request:
    """The request for these arguments.

    Raises
    ------
    InputError
        An argument does not fit the artifact; the text says what was given, what was expected and what to do.
    TooLarge
        The inputs have to be copied as another dtype, and the copies do not fit in `budget`.
    """
    if metadata.stream:
        raise InputError(
            "this artifact streams and takes no whole inputs; push steps to model.stream(), or to `keepdrop stream`, "
            "or export the model with streaming=False"
        )
    given = _by_name(metadata.inputs, x)
    arrays = {tensor.name: _array(tensor, given[tensor.name]) for tensor in metadata.inputs}
    with_axis = _with_axis(metadata, arrays) if metadata.per_sample else {}
    samples = _samples(metadata, with_axis, samples)
    for tensor in metadata.inputs:
        if tensor.name in with_axis:
            _check_shape(replace(tensor, shape=(None, *tensor.shape)), arrays[tensor.name], "samples, batch")
        else:
            _check_shape(tensor, arrays[tensor.name])
    if budget:
        _demand_copies(metadata.inputs, arrays, budget)
    inputs = {}
    for tensor in metadata.inputs:
        name = tensor.name
        inputs[name] = _values(tensor, arrays[name], unit="sample" if name in with_axis else "row")
        if name in metadata.per_sample and name not in with_axis:
            inputs[name] = np.broadcast_to(inputs[name], (samples, *inputs[name].shape))
    of_rows = inputs
    if metadata.per_sample:
        of_rows = {name: array[0] if name in metadata.per_sample else array for name, array in inputs.items()}
    request = Request(
        inputs=inputs,
        rows=_row_ids(rows, _batch(of_rows)),
        seed=integer("seed", seed),
        first_sample=integer("first_sample", first_sample, least=0),
        samples=samples,
        per_sample=metadata.per_sample,
    )
    if request.first_sample + samples > FAR:
        check_far(metadata, request.first_sample, samples, request.longest)
    return request


def _with_axis(metadata: Metadata, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs that come with an array for each sample."""
    return {
        tensor.name: arrays[tensor.name]
        for tensor in metadata.inputs
        if tensor.name in metadata.per_sample and arrays[tensor.name].ndim == len(tensor.shape) + 1
    }


def _samples(metadata: Metadata, with_axis: Mapping[str, NDArray[Any]], samples: Optional[int]) -> int:
    """How many samples are asked for: as many as the inputs have that come with one for each."""
    if not with_axis or samples is not None:
        samples = number_of_samples(metadata, samples)
        if not with_axis:
            return samples
    lengths = {name: len(array) for name, array in with_axis.items()}
    wanted = {*lengths.values(), *([] if samples is None else [samples])}
    if len(wanted) > 1 or 0 in wanted:
        asked = "" if samples is None else f", and samples={samples}"
        raise InputError(
            f"the inputs have so many samples, {lengths}{asked}; give each [samples, batch, ...] for as many, 1 or "
            "more, or [batch, ...], the same for all"
        )
    return wanted.pop()


def number_of_samples(metadata: Metadata, samples: Optional[int]) -> int:
    """How many samples are meant, where None is as many as the artifact says; InputError unless it is 1 or more."""
    return integer("samples", metadata.default_samples if samples is None else samples, least=1)


def check_readings(
    tensors: tuple[Tensor, ...], x: Any, rows: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], bool]:
    """What is pushed to a stream's `rows`: each input as [rows, steps, ...], and whether it came as one step without
    the axis of time.

    Raises
    ------
    InputError
        An array does not fit the artifact or the rows, or is not finite; the text says which.
    """
    given = _by_name(tensors, x)
    arrays = {tensor.name: _array(tensor, given[tensor.name]) for tensor in tensors}
    one_step = {name: array.ndim == len(t.shape) - 1 for t, (name, array) in zip(tensors, arrays.items())}
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        array = arrays[tensor.name]
        if one_step[tensor.name] and array.ndim:
            array = array[:, np.newaxis]  # [B, 1, ...]
        if not (fits(array.shape, tensor.shape) and len(array) == len(rows) and array.shape[1]):
            raise InputError(
                f"input {tensor.name!r} has shape {list(arrays[tensor.name].shape)}; expected "
                f"{_reading_form(tensor, len(rows))}: one reading, or a chunk of steps, for each of the rows "
                f"{_some(rows)} that are pushed"
            )
        inputs[tensor.name] = _values(tensor, array, rows)
    if len({(array.shape[1], one_step[name]) for name, array in inputs.items()}) > 1:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        raise InputError(f"the inputs differ in steps, their shapes are {shapes}; give each the same number of steps")
    return inputs, next(iter(one_step.values()))


def check_far(metadata: Metadata, first_sample: int, samples: int, longest: int) -> None:
    """Refuse sample numbers at which the graph's count of a draw's numbers would leave int64."""
    most = int(INT64.max) // max((elements(draw.shape, longest) for draw in metadata.draws), default=1)
    integer("samples", samples, most=most)
    integer("first_sample", first_sample, most=most - samples)


def row_ids(rows: ArrayLike) -> NDArray[np.int64]:
    """`rows` as int64 [n], otherwise InputError."""
    try:
        ids = np.asarray(rows)
    except Exception as error:  # a ragged list, or whatever another library's __array__ raises
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"rows is not an array ({reason}); give a sequence of integers") from None
    if ids.ndim != 1 or _masked(rows):
        raise InputError(f"rows is {_shown(rows)}; expected a sequence of integers, such as [0, 1, 2]")
    return _whole_ids(ids) if ids.size else np.zeros(0, np.int64)


def elements(shape: tuple[Optional[int], ...], longest: int) -> int:
    """How many elements an array of this shape has, where dynamic axes are `longest`."""
    return math.prod(longest if size is None else size for size in shape)


def integer(name: str, value: Any, least: int = int(INT64.min), most: int = int(INT64.max)) -> int:
    """`value` as an int from `least` to `most`, otherwise InputError that calls it `name`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {_shown(value)}; expected an integer") from None
    if least <= number <= most:
        return number
    # A number of thousands of digits has no decimal text (sys.set_int_max_str_digits).
    shown = number if abs(number) < 2**256 else "an integer of more than 256 bits"
    if number < least:
        bound = "the least int64" if least == INT64.min else str(least)
        raise InputError(f"{name} is {shown}; give {bound} or more")
    raise InputError(f"{name} is {shown}; give {most} or less (it has to fit int64)")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _by_name(tensors: tuple[Tensor, ...], x: Any) -> Mapping[str, Any]:
    if len(tensors) == 1 and not isinstance(x, Mapping):
        return {tensors[0].name: x}
    names = [tensor.name for tensor in tensors]
    if not isinstance(x, Mapping):
        raise InputError(f"the model has {len(names)} inputs and one array was given; give a dict with keys {names}")
    unknown = [name for name in x if name not in names]
    if unknown:
        raise InputError(f"the model has no input {unknown}; its inputs are {names}")
    missing = [name for name in names if name not in x]
    if missing:
        raise InputError(f"no array was given for input {missing}; the inputs are {names}")
    return x


def _array(tensor: Tensor, value: Any) -> NDArray[Any]:
    """`value` as an array of numbers of some kind, not copied where it is one."""
    if masked := _masked(value):
        raise InputError(
            f"input {tensor.name!r} has {masked} masked elements, and a model takes every element; "
            "fill them, as x.filled(0) does, or drop those rows"
        )
    try:
        array = np.asarray(value)
    except MemoryError:
        raise TooLarge(f"input {tensor.name!r} does not fit in memory as an array; give fewer rows at a time") from None
    except Exception as error:  # a ragged list, or whatever another library's __array__ raises
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"input {tensor.name!r} is not an array ({reason}); give one array of {_form(tensor)}"
        ) from None
    if array.dtype.kind not in "biuf":
        found = f"a {type(value).__name__}" if array.dtype.kind == "O" and array.ndim == 0 else array.dtype
        raise InputError(
            f"input {tensor.name!r} holds {found} that does not go into {tensor.dtype} unchanged; give numbers, "
            f'{_form(tensor)}: x.astype("{tensor.dtype}") where they are numbers in another guise'
        )
    return array


def _masked(value: Any) -> int:
    # numpy.ma takes 10 ms to import, and who has no such array has not imported it.
    is_masked = hasattr(value, "mask") and isinstance(value, np.ma.MaskedArray)
    return int(np.count_nonzero(value.mask)) if is_masked else 0


def _demand_copies(tensors: tuple[Tensor, ...], arrays: Mapping[str, NDArray[Any]], budget: Budget) -> None:
    size, parts = 0, []
    for tensor in tensors:
        array, dtype = arrays[tensor.name], np.dtype(tensor.dtype)
        if array.dtype != dtype or not array.flags.c_contiguous:
            size += array.size * dtype.itemsize
            parts.append(f"{tensor.name} {list(array.shape)} as {dtype}")
    if size and not budget.fits(size):
        raise budget.refusal(
            size,
            f"copies of the inputs, {', '.join(parts)},",
            "give fewer rows at a time, or the dtype that the model has",
        )


def _values(
    tensor: Tensor, array: NDArray[Any], rows: Optional[NDArray[np.int64]] = None, unit: str = "row"
) -> NDArray[Any]:
    """`array`, whose shape fits, as the graph takes it; an error names a row by `rows`, or by its place, as `unit`."""
    fitted = np.ascontiguousarray(_cast(tensor, array))
    if fitted.dtype.kind != "f":
        return fitted
    if fitted.size <= PIECE and _all_finite(fitted):
        return fitted
    step = max(1, PIECE // max(1, fitted[:1].size))
    for start in range(0, len(fitted), step):
        piece = fitted[start : start + step]
        if _all_finite(piece):
            continue
        finite = np.isfinite(piece)
        place = start + int(np.argwhere(~finite)[0, 0])
        row = place if rows is None else rows[place]
        if np.isfinite(array[place]).all():
            raise InputError(
                f"input {tensor.name!r} holds numbers too large for {fitted.dtype}, first in {unit} {row}; scale it as "
                "the model was trained"
            )
        raise InputError(
            f"input {tensor.name!r} holds NaN or infinity, first in {unit} {row}; fill or drop such rows: "
            "onnxruntime's recurrent operators turn them into numbers like any others"
        )
    return fitted


def _all_finite(array: NDArray[Any]) -> bool:
    # Of a small request `.all()` takes several microseconds more.
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)


def fits(shape: tuple[int, ...], wanted: tuple[Optional[int], ...]) -> bool:
    """Whether an array has the shape that is wanted, where None may be any size."""
    if len(shape) != len(wanted):
        return False
    return not [None for have, want in zip(shape, wanted) if want is not None and want != have]


def _check_shape(tensor: Tensor, array: NDArray[Any], leading: str = "batch") -> None:
    fitting = fits(array.shape, tensor.shape)
    if fitting and 0 not in array.shape[1:]:
        return
    cure = "reshape it"
    if array.ndim == len(tensor.shape) - 1:
        cure = "one example needs a batch axis too: x[np.newaxis]"
    elif fitting:
        cure = "give at least one step of every axis"
    raise InputError(f"input {tensor.name!r} has shape {list(array.shape)}; expected {_form(tensor, leading)}; {cure}")


def _cast(tensor: Tensor, array: NDArray[Any]) -> NDArray[Any]:
    want = np.dtype(tensor.dtype)
    if array.dtype == want:
        return array
    with np.errstate(invalid="ignore", over="ignore"):  # what becomes of NaN and of large numbers is looked at
        cast = array.astype(want)
    if want.kind == "f" or np.array_equal(cast, array):
        return cast
    cure = "give whole numbers in its range" if want.kind in "iu" else f"convert it to {want}"
    raise InputError(f"input {tensor.name!r} holds {array.dtype} that does not go into {want} unchanged; {cure}")


def _form(tensor: Tensor, leading: str = "batch") -> str:
    tail = ["any" if size is None else str(size) for size in tensor.shape[leading.count(",") + 1 :]]
    return f"{tensor.dtype} [{', '.join([leading, *tail])}]"


def _reading_form(tensor: Tensor, rows: int) -> str:
    tail = ["any" if size is None else str(size) for size in tensor.shape[2:]]
    step, chunk = ", ".join([str(rows), *tail]), ", ".join([str(rows), "steps", *tail])
    return f"{tensor.dtype} [{step}] or [{chunk}]"


def _some(rows: NDArray[np.int64]) -> str:
    """The ids, the middle left out where there are many."""
    ids = [str(row) for row in rows.tolist()]
    return f"[{', '.join(ids if len(ids) <= 8 else [*ids[:4], '...', *ids[-2:]])}]"


def _batch(inputs: Mapping[str, NDArray[Any]]) -> int:
    lengths = {len(array) for array in inputs.values()}
    if len(lengths) != 1:
        found = {name: len(array) for name, array in inputs.items()}
        raise InputError(f"the inputs have different numbers of rows, {found}; give each the same")
    batch = lengths.pop()
    if batch == 0:
        raise InputError("the batch is empty; give at least one row")
    return batch


def _row_ids(rows: Optional[ArrayLike], batch: int) -> NDArray[np.int64]:
    if rows is None:
        return np.arange(batch, dtype=np.int64)
    try:
        ids = np.asarray(rows)
    except Exception as error:  # a ragged list, or whatever another library's __array__ raises
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"rows is not an array ({reason}); give {batch} integers, one a row") from None
    if ids.shape != (batch,):
        raise InputError(f"rows has shape {list(ids.shape)}; expected [{batch}], one integer a row of the input")
    if masked := _masked(rows):
        raise InputError(f"rows has {masked} masked ids; give each row an id of its own")
    return _whole_ids(ids)


def _whole_ids(ids: NDArray[Any]) -> NDArray[np.int64]:
    if ids.dtype.kind not in "iu" or ids.dtype == np.uint64 and ids.max() > INT64.max:
        raise InputError(f"rows holds {ids.dtype}; expected integers that fit int64")
    return ids.astype(np.int64)
