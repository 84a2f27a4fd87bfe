"""Stage 1, load: what people have becomes a stock Keras 3 model, or one sentence says why not."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.plan import keras_hooks

from . import archive, custom_code, fitting, hdf5
from .archive import plain
from .buildable import buildable
from .keras2 import activations, descriptions, layout_2_13, operators
from .keras2 import savedmodel as keras2_savedmodel
from .keras2 import weights as keras2_weights
from .lifting import lifted, stateless
from .trust import lambda_refused, refuse_code

# Keras' reader of .h5 takes an option such as score_mode="dot" for the function of keras.layers of that name (3.15).
_NOT_FUNCTIONS = {name: name for name, thing in vars(keras.layers).items() if inspect.isfunction(thing)}
_NO_SHAPES = (
    "its layer {layer!r} is not built, as the file does not say what the model is called on; give the shapes of the "
    "inputs, without the batch: --input-shape 24,3, or --input-shape NAME=24,3 for each argument of its call "
    "(input_shapes= in Python)"
)
_ACCEPTED = ".keras, .h5, .hdf5, .json with --weights, or the folder of a SavedModel"


@dataclass(frozen=True)
class Loaded:
    """A model, a line for each change that was made to its description, and the SHA-256 of the file it came from."""

    model: keras.Model
    changes: tuple[str, ...]
    sha256: str | None


def load(
    path: str | Path,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    *,
    trust_code: bool = False,
    input_shapes: Mapping[str, fitting.Shape] | fitting.Shape | None = None,
) -> keras.Model:
    """Load a model of Keras 3 or 2 as a stock, uncompiled ``keras.Model`` that computes what it did where it was saved.

    Parameters
    ----------
    path
        A ``.keras``, ``.h5`` or ``.hdf5`` file, a ``.json`` of the architecture, or the folder of a Keras SavedModel.
    custom_objects
        The classes and functions of the model that are not Keras', by name.
    weights
        The weights, where ``path`` is a ``.json``.
    trust_code
        Run the Python code that Lambda layers have left in the file.
    input_shapes
        The shapes of the inputs, without the batch and None where a length is free, of a model whose own class makes
        its layers and whose file does not say: one, or by the names of the arguments of ``call``.

    Raises
    ------
    LoadError
        What is given is missing, damaged, or cannot be loaded without changing its numbers.
    """
    return read(path, custom_objects, weights, trust_code=trust_code, input_shapes=input_shapes).model


def read(
    path: str | Path,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    *,
    trust_code: bool = False,
    most_bytes: int | None = None,
    input_shapes: Mapping[str, fitting.Shape] | fitting.Shape | None = None,
    streaming: bool = False,
) -> Loaded:
    """``load``, with what it changed; weights that take more than ``most_bytes`` as float32 are refused unread.

    ``streaming``: for a stream, which carries the states of stateful layers.
    """
    path, weights = Path(path), None if weights is None else Path(weights)
    for given in (path, weights):
        if given is not None and not given.exists():
            raise LoadError(f"{given}: there is no such file")
    if weights is not None and path.suffix != ".json":
        raise LoadError(f"{path}: it has weights of its own; --weights goes with the .json file of an architecture")
    reading = _Reading(path, dict(custom_objects or {}), trust_code, most_bytes, input_shapes)
    if path.is_dir():
        model, changes = reading.folder()
    elif path.suffix == ".json":
        model, changes = reading.architecture(weights)
    elif (form := _form(path)) == archive.SUFFIX:
        model, changes = reading.keras_archive()
    elif form in hdf5.SUFFIXES:
        model, changes = reading.hdf5()
    else:
        raise LoadError(f"{path}: a Keras model is {_ACCEPTED}; save it with model.save('name.keras')")
    model, fitted = reading.fitted(model, streaming)
    return Loaded(model, (*changes, *fitted), archive.sha256(path, *([weights] if weights else [])))


def _form(path: Path) -> str:
    """The suffix of what a file is: Keras 2 wrote HDF5 under any name that it was given, ``.keras`` among them."""
    with open(path, "rb") as file:
        start = file.read(len(hdf5.SIGNATURE))
    if start == hdf5.SIGNATURE:
        return hdf5.SUFFIXES[0]
    return archive.SUFFIX if start.startswith(archive.SIGNATURE) else path.suffix


_Found = tuple[keras.Model, list[str]]


class _Reading:
    """One call of ``read``: what every form of file needs to know."""

    def __init__(
        self, path: Path, custom_objects: dict[str, Any], trust_code: bool, most_bytes: int | None, shapes: Any
    ) -> None:
        self._path, self._shapes = path, shapes
        self._custom = {name: buildable(thing) for name, thing in custom_objects.items()}
        self._trust_code, self._most_bytes = trust_code, most_bytes
        self._changes: list[str] = []
        self._for_lambdas: list[str] = []
        if trust_code:
            keras_hooks.name_libraries_for_lambdas()

    def keras_archive(self) -> _Found:
        with archive.zip_archive(self._path) as opened:
            config = self._parsed(opened.read(archive.CONFIG))
            metadata = archive.parse(self._path, opened.read(archive.METADATA))
            version = self._version(metadata.get("keras_version") if isinstance(metadata, dict) else None)
            if archive.WEIGHTS not in opened.namelist():
                raise LoadError(f"{self._path}: the archive has no {archive.WEIGHTS}; fetch or save it again")
            with tempfile.TemporaryDirectory() as folder:
                weights = archive.weights(opened, Path(folder))
                in_file = self._judge(weights)
                if version.startswith("3") and self._shapes is not None:
                    return self._of_own_class(config, weights)
                if version.startswith("3") and self._for_lambdas:
                    model = self._deserialized(config)
                    self._put_variables(model, weights, self._path, generators=True)
                    return model, self._changes
                if version.startswith("3"):
                    return self._by_keras(config, in_file), self._changes
                if any(name.startswith("assets/") and not name.endswith("/") for name in opened.namelist()):
                    raise LoadError(
                        f"{self._path}: a layer of it keeps a vocabulary, which Keras 3 does not read from a file of "
                        f"Keras {version}; look the words up before the model"
                    )
                model, changes = self._rewritten(config, version)
                self._put_variables(model, weights, self._path, generators=False)
        return model, changes

    def hdf5(self) -> _Found:
        with hdf5.hdf5(self._path) as file:
            if (described := hdf5.attribute(file, "model_config")) is None:
                if _weights_group(file) is not None:
                    raise LoadError(
                        f"{self._path}: it holds weights alone; give the architecture (model.to_json()) as the model "
                        f"and these as its weights: keepdrop export model.json --weights {self._path.name}"
                    )
                raise LoadError(
                    f"{self._path}: it is an HDF5 file without a Keras model; save one with model.save('name.keras')"
                )
            config = self._parsed(hdf5.text(described))
            if "model_weights" not in file:
                raise LoadError(
                    f"{self._path}: it holds a model without weights; save it with model.save('name.keras')"
                )
            group = file["model_weights"]
            version, backend = (
                next((x for holder in (file, group) if (x := hdf5.attribute(holder, name)) is not None), None)
                for name in ("keras_version", "backend")
            )
            version = self._version(version)
            archive.refuse_size(self._path, hdf5.declared(group), self._most_bytes)
            by_keras = version.startswith("3") and not self._for_lambdas
            saved = [] if by_keras else hdf5.layer_weights(self._path, group)
        if by_keras:
            return self._by_keras(config), self._changes
        if version.startswith("3"):
            name = "Model" if config["class_name"] == "Functional" else config["class_name"]  # as it is public
            model, changes = self._deserialized({**config, "module": "keras", "class_name": name}), self._changes
        else:
            model, changes = self._rewritten(config, version, backend and hdf5.text(backend))
        return model, changes + keras2_weights.put(self._path, model, saved)

    def architecture(self, weights: Path | None) -> _Found:
        text = self._path.read_text(encoding="utf8", errors="replace")
        config = self._parsed(text)
        if weights is None:
            raise LoadError(f"{self._path}: it describes layers without their weights; add --weights FILE (.h5)")
        version = self._version(config.get("keras_version", "3" if "module" in config else "2"))
        with hdf5.hdf5(weights) as file:
            group = _weights_group(file)
            if group is None:
                raise LoadError(f"{weights}: it holds no weights of a Keras model; write them with model.save_weights")
            archive.refuse_size(weights, hdf5.declared(group), self._most_bytes)
            by_layer = "layer_names" in group.attrs or "layer_names0" in group.attrs
            saved = hdf5.layer_weights(weights, group) if by_layer else []
        if version.startswith("2"):
            model, changes = self._rewritten(config, version, config.get("backend"))
        else:
            model, changes = self._deserialized(config), self._changes
        if by_layer:
            return model, changes + keras2_weights.put(weights, model, saved)
        self._put_variables(model, weights, weights, generators=version.startswith("3"))
        return model, changes

    def folder(self) -> _Found:
        config, version, saved = keras2_savedmodel.read(
            self._path, lambda shapes: archive.refuse_size(self._path, shapes, self._most_bytes)
        )
        if not version.startswith("2"):
            raise LoadError(f"{self._path}: a SavedModel of Keras {version} cannot be loaded; give its .keras file")
        self._judge_code(config)
        model, changes = self._rewritten(config, version)
        return model, changes + keras2_weights.put(self._path, model, saved)

    def fitted(self, model: keras.Model, streaming: bool) -> _Found:
        """The model as the stages that follow can take it."""
        model, inputs = self._with_inputs(model)
        with self._custom_scope(""):
            model, precision = fitting.as_float32(model, trust_code=self._trust_code)
            carried: list[str] = []
            if streaming:
                with self._naming_the_file():
                    model, carried = stateless(model, trust_code=self._trust_code)
            model, free = lifted(model, trust_code=self._trust_code)
            names = fitting.fit_names(model)
        return model, [*inputs, *precision, *carried, *free, *names]

    def _with_inputs(self, model: keras.Model) -> _Found:
        with self._naming_the_file():
            return fitting.with_inputs(model, self._shapes)

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except LoadError as error:
            raise LoadError(f"{self._path}: {error}") from error

    def _version(self, given: Any) -> str:
        version = "1" if given is None else hdf5.text(given)
        if version[:1] not in ("2", "3"):
            raise LoadError(
                f"{self._path}: it was written by Keras {version}; files of Keras 2 and 3 can be loaded: open it in "
                "Keras 2.0 to 2.3, which still read those of Keras 1, and save it again"
            )
        return version

    def _rewritten(self, config: Any, version: str, backend: str | None = None) -> _Found:
        given = {**_registered(), **self._custom}
        try:
            rewritten, changes = descriptions.to_keras3(
                self._path, config, version, given, backend=backend, trust_code=self._trust_code
            )
        except LoadError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise LoadError(
                f"{self._path}: it is damaged: the description of its layers is not what Keras writes ({error!r})"
            ) from error
        return self._deserialized(rewritten), [*changes, *self._changes]

    def _deserialized(self, config: Any) -> keras.Model:
        def deserialize() -> Any:
            return keras.saving.deserialize_keras_object(config, safe_mode=not self._trust_code)

        return self._model(deserialize, config)

    def _parsed(self, text: str | bytes) -> Any:
        """The description of a model, which runs no code that is not trusted."""
        config = archive.parse(self._path, text)
        if not isinstance(config, dict) or "class_name" not in config or "config" not in config:
            raise LoadError(f"{self._path}: it does not describe a Keras model; write one with model.to_json()")
        self._judge_code(config)
        return config

    def _take_for_dropout(self, config: Any) -> None:
        """Let layers of a class that nobody gave, and that has a rate and nothing else, be Dropout; said in a line."""
        found = custom_code.dropouts(config, {**_registered(), **self._custom})
        self._custom |= dict.fromkeys(found, keras.layers.Dropout)
        self._changes += [
            f"{name!r}, a class that was not given, has a rate and nothing else and was taken for Dropout ({layers}); "
            "--custom FILE.py if it does anything else"
            for name, layers in found.items()
        ]

    def _judge_code(self, config: Any) -> None:
        """What was given stands for code in the description, in place; what is left of it is refused, or trusted."""
        self._for_lambdas = custom_code.put_for_lambdas(config, self._custom)
        self._custom |= {thing.__name__: thing for thing in self._custom.values() if isinstance(thing, type)}
        if self._for_lambdas:
            self._changes.append(f"what was given stands for the code of Lambda layers: {', '.join(self._for_lambdas)}")
        if not self._trust_code:
            refuse_code(self._path, config, self._custom)
        self._take_for_dropout(config)

    def _by_keras(self, config: Any, in_file: int | None = None) -> keras.Model:
        """A file of Keras 3, by Keras itself; ``in_file`` is how many numbers its weights are, where that is known."""
        with self._under_its_suffix() as path:
            model = self._model(
                lambda: keras.models.load_model(path, compile=False, safe_mode=not self._trust_code), config
            )
        in_model = sum(math.prod(weight.shape) for weight in model.weights)
        unbuilt = [layer.name for layer in keras_hooks.all_layers(model) if not layer.built]
        if unbuilt and in_file is not None and in_file > in_model:
            raise LoadError(f"{self._path}: {_NO_SHAPES.format(layer=unbuilt[0])}")
        if in_file is not None and in_file < in_model:
            raise LoadError(
                f"{self._path}: its weights are {in_file:,} numbers and the model's {in_model:,}, the rest of which "
                "Keras would leave random; make each layer that holds weights an attribute of the layer that uses it, "
                "not part of a list of lists, and save the model again"
            )
        return model

    @contextlib.contextmanager
    def _under_its_suffix(self) -> Iterator[Path]:
        """The file under a name by which Keras takes it for what it is."""
        form = _form(self._path)
        if self._path.suffix == form or {self._path.suffix, form} <= set(hdf5.SUFFIXES):
            yield self._path
            return
        with tempfile.TemporaryDirectory() as folder:
            yield Path(shutil.copy(self._path, Path(folder) / f"model{form}"))

    def _of_own_class(self, config: Any, weights: Path) -> _Found:
        """A model whose class makes its layers, built by the shapes that were given before its weights are read."""
        inner = self._deserialized(config)
        model, lines = self._with_inputs(inner)
        self._shapes = None
        self._put_variables(inner, weights, self._path, generators=True)
        return model, [*self._changes, *lines]

    def _model(self, make: Callable[[], Any], config: Any) -> keras.Model:
        with self._custom_scope(json.dumps(config, default=str)), warnings.catch_warnings():
            # Layers that Keras would leave with their first, random weights, with no more than a warning.
            warnings.filterwarnings("error", message="Skipping nested container")
            try:
                model = make()
            except Exception as error:  # Keras raises a dozen types here, from h5py's to zipfile's
                raise self._reason(error) from error
        if not isinstance(model, keras.Model):
            raise LoadError(f"{self._path}: it describes a {type(model).__name__}, not a model")
        return model

    def _custom_scope(self, text: str) -> Any:
        """What was given, also under the names ``package>Class`` that the file has for it."""
        full = {name: self._custom[name.rpartition(">")[2]] for name in set(re.findall(r"[\w.]+>\w+", text))
                if name.rpartition(">")[2] in self._custom}  # fmt: skip
        own = {
            **_NOT_FUNCTIONS,
            "keepdrop>keras2_hard_sigmoid": activations.keras2_hard_sigmoid,
            "keepdrop>Keras2Operation": operators.Keras2Operation,
        }
        return keras.saving.custom_object_scope({**own, **full, **self._custom})

    def _put_variables(self, model: keras.Model, weights: Path, given: Path, generators: bool) -> None:
        """Weights in the form of ``model.save_weights('x.weights.h5')``, called ``given`` in messages.

        ``generators``: the states of Keras 3's seed generators are among them. Keras would not mind weights left over.
        """
        with hdf5.hdf5(weights, given) as file:
            older = layout_2_13.is_of_keras_2_13(file)
            in_file = sum(math.prod(shape) for shape in hdf5.variables(file))
            of_layers = sum(math.prod(shape) for shape in hdf5.variables(file, generators=False))
        in_model = sum(math.prod(v.shape) for v in (model.variables if generators else model.weights))
        lacking = of_layers < sum(math.prod(v.shape) for v in model.weights)
        if in_file > in_model or (in_file < in_model and not generators) or (lacking and self._for_lambdas):
            raise LoadError(
                f"{given}: its weights do not fit: they are {in_file:,} numbers, and the model's {in_model:,}"
            )
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # A layer in a Lambda's place may have a generator, which the file lacks: what else it lacks was counted.
            warnings.filterwarnings("ignore" if self._for_lambdas else "error", message="Skipping nested container")
            if older or not weights.name.endswith(".weights.h5"):
                weights = Path(shutil.copy(weights, Path(folder) / archive.WEIGHTS))
            try:
                if older:
                    layout_2_13.lay_out_as_keras3(weights)
                model.load_weights(weights)
            except Exception as error:
                raise LoadError(f"{given}: its weights do not fit: {plain(error)}") from error

    def _judge(self, weights: Path) -> int:
        """Judge the weights of an archive before Keras reads them; how many numbers they are."""
        with hdf5.hdf5(weights, self._path) as file:
            shapes = hdf5.variables(file)
        archive.refuse_size(self._path, shapes, self._most_bytes)
        return sum(math.prod(shape) for shape in shapes)

    def _reason(self, error: Exception) -> LoadError:
        if isinstance(error, operators.NotTranslated):
            return LoadError(f"{self._path}: {error}")
        # Keras puts what went wrong behind the configuration of everything around it, in a terminal's bold type.
        text = re.split("(?:Exception|Error) encountered: ", " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split()))[
            -1
        ]
        if unbuilt := re.search(r"ayer '(\w+)' was never built", text):
            return LoadError(f"{self._path}: {_NO_SHAPES.format(layer=unbuilt[1])}")
        if "safe_mode" in text or "deserialization of a `lambda`" in text.lower():
            return lambda_refused(self._path)
        if unknown := re.search(r"(?:ould not locate (class|function)|Unknown layer:) '?([\w>]+)", text):
            return descriptions.unknown_class(self._path, unknown[2].rpartition(">")[2], kind=unknown[1] or "class")
        if "marshal" in text:
            return LoadError(
                f"{self._path}: the code of its Lambda layers was written by another version of Python, which alone "
                "can run it; replace them by layers of a class of their own"
            )
        return LoadError(
            f"{self._path}: Keras cannot load it ({type(error).__name__}: {text[:300]}); save it again with "
            "model.save('name.keras')"
        )


def _registered() -> dict[str, Any]:
    """What ``keras.saving.register_keras_serializable`` and custom object scopes have made known."""
    return dict(keras.saving.get_custom_objects())


def _weights_group(file: h5py.File) -> Any:
    """Where the weights are: those of a whole model, by layer, or by variable; None where there are none."""
    if "model_weights" in file:
        return file["model_weights"]
    known = {"layer_names", "layer_names0"} & set(file.attrs) or {"layers", "_layer_checkpoint_dependencies"} & set(
        file
    )
    return file if known else None
