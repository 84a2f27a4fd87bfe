"""Mutated files of Keras models: an error of ours or a model, never a crash, a hang or another kind of error.

    python tests/exporter/fuzz.py --cases 3000 --kinds keras h5

Cases run in worker processes as those of tests/runtime/fuzz.py do. The kinds:

keras, h5, h5_keras2
    bytes of a ``.keras``, of an ``.h5`` of Keras 3, or of Keras 2, torn. A ``.keras`` has checksums: what is loaded
    has to give what the model gave. HDF5 has none: a flipped bit in a weight passes.
keras_weights
    the weights' HDF5 torn within an archive that is whole.
keras_config, h5_config
    the description of the layers, some value, key or order in it changed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import io
import json
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

KINDS = ("keras", "keras_weights", "keras_config", "h5", "h5_keras2", "h5_config")
TELLING = ("keras",)
# TensorFlow takes a good part of it.
MEMORY = 12 << 30
PATIENCE = 120.0
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def _of_the_runtime() -> Any:
    """tests/runtime/fuzz.py, whose workers are this file."""
    path = Path(__file__).parents[1] / "runtime" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("keepdrop_runtime_fuzz", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.__file__, module.PATIENCE = __file__, PATIENCE
    return module


runtime = _of_the_runtime()


def originals(folder: Path) -> dict[str, bytes]:
    """What is mutated: an LSTM of 4 with dropout and Dense(2), as ``.keras``, as ``.h5`` and as Keras 2 has that."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 3), name="x"),
            keras.layers.LSTM(4, dropout=0.25, recurrent_dropout=0.25, name="lstm"),
            keras.layers.Dense(2, name="dense"),
        ]
    )
    model.save(folder / "m.keras")
    with contextlib.redirect_stderr(io.StringIO()):
        model.save(folder / "m.h5")
    with h5py.File(folder / "m.h5") as saved, h5py.File(folder / "k2.h5", "w") as file:
        file.attrs.update({"keras_version": "2.15.0", "backend": "tensorflow", "model_config": json.dumps(_keras2())})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"lstm", b"dense"]
        for name in ("lstm", "dense"):
            saved.copy(f"model_weights/{name}", group)
    return {form: (folder / name).read_bytes() for form, name in _FILES.items()}


_FILES = {"keras": "m.keras", "h5": "m.h5", "h5_keras2": "k2.h5"}


def _keras2() -> Any:
    lstm = {"name": "lstm", "batch_input_shape": [None, 5, 3], "units": 4, "activation": "tanh", "dropout": 0.25,
            "recurrent_activation": "sigmoid", "recurrent_dropout": 0.25, "time_major": False}  # fmt: skip
    dense = {"name": "dense", "units": 2, "activation": "linear"}
    layers = [{"class_name": "LSTM", "config": lstm}, {"class_name": "Dense", "config": dense}]
    return {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}


def mutated(case: Any, whole: dict[str, bytes]) -> bytes:
    """The file of a case."""
    rng = random.Random(repr(case))
    if case.kind in whole:
        return runtime.torn(rng, whole[case.kind])
    if case.kind == "h5_config":
        content = io.BytesIO(whole[rng.choice(("h5", "h5_keras2"))])
        with h5py.File(content, "r+") as file:
            file.attrs["model_config"] = runtime.confused(rng, file.attrs["model_config"])
        return content.getvalue()
    with zipfile.ZipFile(io.BytesIO(whole["keras"])) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if case.kind == "keras_weights":
        parts[WEIGHTS] = runtime.torn(rng, parts[WEIGHTS])
    else:
        parts[CONFIG] = runtime.confused(rng, parts[CONFIG].decode()).encode(errors="surrogatepass")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return content.getvalue()


def outcome(case: Any, whole: dict[str, bytes], folder: Path, x: Any, right: Any) -> str:
    """What became of a case: "refused" or "loaded"; or what is wrong with it."""
    import keepdrop_exporter

    path = folder / ("model.keras" if case.kind.startswith("keras") else "model.h5")
    path.write_bytes(mutated(case, whole))
    try:
        model = keepdrop_exporter.load(path)
    except keepdrop_exporter.LoadError as error:
        return "refused" if str(error).startswith(f"{path}: ") and "LoadError" not in str(error) else f"TEXT {error}"
    if case.kind in TELLING and not np.array_equal(model(x), right):
        return "WRONG model"
    return "loaded"


def work() -> None:
    """A worker: cases as lines of JSON in, outcomes out."""
    # Native code may print too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")
    import keras

    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = originals(folder)
        right = keras.models.load_model(folder / "m.keras")(x)
        for line in sys.stdin:
            case = runtime.Case(*json.loads(line))
            try:
                found = outcome(case, whole, folder, x, right)
            except BaseException as error:
                found = f"RAISED {type(error).__name__}: {error}"[:300].replace("\n", " ")
            keras.backend.clear_session()
            print(json.dumps(found), file=answers, flush=True)


def outcomes(kinds: tuple[str, ...], cases: int, first: int = 0) -> Iterator[tuple[Any, str]]:
    """Each case with what became of it."""
    plan = [runtime.Case(kind, "model", first + number) for kind in kinds for number in range(cases)]
    return runtime.outcomes(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cases", type=int, default=3000, help="how many of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--first", type=int, default=0, help="the first case's number")
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad = 0
    try:
        for case, found in outcomes(arguments.kinds, arguments.cases, arguments.first):
            counts[case.kind, found.split(" ")[0]] += 1
            if found[0].isupper():
                bad += 1
                print(f"{case}: {found}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; so far:")
    for (kind, found), count in sorted(counts.items()):
        print(f"{kind:15} {found:10} {count}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
