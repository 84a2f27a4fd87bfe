"""The ``.weights.h5`` of Keras 2.13 and 2.14, whose layers lie elsewhere than Keras 3 looks for them."""

from __future__ import annotations

from pathlib import Path

import h5py

_KERAS_2_13 = "_layer_checkpoint_dependencies"


def is_of_keras_2_13(file: h5py.File) -> bool:
    """Whether ``lay_out_as_keras3`` has anything to move."""
    return bool(file.visit(lambda name: name.rpartition("/")[2] == _KERAS_2_13 or None))


def lay_out_as_keras3(path: Path) -> None:
    """Move, in place, the layers of a ``.weights.h5`` file of Keras 2.13 or 2.14 to where Keras 3 looks for them.

    The two walk a functional model by another list of its layers, in which a layer with weights stands twice: of the
    numbers that tell layers of one class apart, 2.13 skips some.
    """
    with h5py.File(path, "r+") as file:
        models: list[str] = []
        file.visit(lambda name: models.append(name) if name.rpartition("/")[2] == _KERAS_2_13 else None)
        for name in sorted(models, key=len, reverse=True):
            parent = file[name].parent
            if "layers" in parent:
                del parent["layers"]
            parent.move(_KERAS_2_13, "layers")
            counts: dict[str, int] = {}
            for old in sorted(parent["layers"], key=_class_and_number):
                kind, _ = _class_and_number(old)
                count = counts[kind] = counts.get(kind, -1) + 1
                new = f"{kind}_{count}" if count else kind
                if new != old:
                    parent["layers"].move(old, new)


def _class_and_number(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if kind and number.isdecimal() else (name, 0)
