"""Replay FOLDER/NAME/ (vectors) on FOLDER/NAME.onnx in Python; one JSON object a line, as each of the replays writes.

    replay.py keepdrop|ort|reference FOLDER NAME...

"worst" is the largest difference in units of what is allowed, "same" whether all numbers are, "control" is "worst"
where the seed is another one: it has to be above 1. NaN and infinity are null.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keepdrop.replay import INDEX, check_vectors

Call = Callable[[Sequence[str], Mapping[str, Any]], list[Any]]


class Replayed:
    """What check_vectors asks of a session, with another program's call."""

    def __init__(self, call: Call, folder: Path, seed_moved: bool) -> None:
        self._call, self._folder, self._moved = call, folder, int(seed_moved)
        self.path = str(folder)

    def numbers_digest(self) -> str:
        return json.loads((self._folder / INDEX).read_text(encoding="utf-8"))["numbers_digest"]

    def call(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        return self._call(names, {**feeds, "seed": np.asarray(feeds["seed"] ^ np.int64(self._moved))})


def keepdrop(folder: Path, name: str) -> Call:
    import keepdrop

    return keepdrop.load(folder / f"{name}.onnx", threads=1)._session.call


def ort(folder: Path, name: str) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / f"{name}.ort"), options, ["CPUExecutionProvider"])
    return session.run


def reference(folder: Path, name: str) -> Call:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(folder / f"{name}.onnx")).run


def worst(call: Call, folder: Path, seed_moved: bool) -> float:
    return max(result.worst for result in check_vectors(Replayed(call, folder, seed_moved), folder))


def main(engine: str, folder: Path, names: Sequence[str]) -> None:
    for name in names:
        call = {"keepdrop": keepdrop, "ort": ort, "reference": reference}[engine](folder, name)
        right, control = (worst(call, folder / name, moved) for moved in (False, True))
        told = {"artifact": name, "worst": right, "same": right == 0, "control": control}
        print(json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in told.items()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
