"""Stage 1: what cannot be loaded is said in one sentence that tells what to do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import keepdrop_exporter
from keepdrop_exporter import ConvertError, LoadError, Report
from keepdrop_exporter.formats import onnx_export
from keepdrop_exporter.loading import archive, hdf5


class Unregistered(keras.layers.Layer):
    def call(self, x: object) -> object:
        return x


def _save(path: Path, *stack: layers.Layer) -> Path:
    keras.Sequential([keras.Input((3,), name="x"), *stack, layers.Dropout(0.5)]).save(path)
    return path


def _missing(folder: Path) -> Path:
    return folder / "none.keras"


def _suffix(folder: Path) -> Path:
    (folder / "model.pb").write_bytes(b"")
    return folder / "model.pb"


def _no_zip(folder: Path) -> Path:
    (folder / "model.keras").write_bytes(b"this is no zip archive")
    return folder / "model.keras"


def _no_hdf5(folder: Path) -> Path:
    (folder / "model.h5").write_bytes(b"this is no HDF5 file")
    return folder / "model.h5"


def _cut_short(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = _save(folder / f"model{suffix}", layers.Dense(3))
        path.write_bytes(path.read_bytes()[:-2000])
        return path

    return make


def _flipped(folder: Path) -> Path:
    path = _save(folder / "model.keras", layers.Dense(3))
    content = bytearray(path.read_bytes())
    kernel = keras.models.load_model(path).layers[0].kernel.numpy().tobytes()
    content[content.index(kernel)] ^= 1
    path.write_bytes(content)
    return path


# The least an archive has to hold to be judged further.
PARTS: dict[str, bytes | str] = {"config.json": b"{}", "metadata.json": b'{"keras_version": "3.8.0"}'}


def _archive(*parts: dict[str, bytes | str]) -> Callable[[Path], Path]:
    """A .keras file of given members; a text is where a symbolic link leads."""

    def make(folder: Path) -> Path:
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore", UserWarning)  # zipfile's, of a name given twice
            for name, content in (item for members in parts for item in members.items()):
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED
                info.external_attr = (0o120777 if isinstance(content, str) else 0o100644) << 16
                archive.writestr(info, content)
        return folder / "model.keras"

    return make


def _weights_alone(folder: Path) -> Path:
    keras.Sequential([keras.Input((3,)), layers.Dense(3)]).save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def _hdf5(write: Callable[[h5py.File], None]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "model.h5", "w") as file:
            write(file)
        return folder / "model.h5"

    return make


def _keras2_dense(file: h5py.File, units: int = 3) -> None:
    dense = {"name": "dense", "batch_input_shape": [None, 3], "units": units, "use_bias": False}
    config = {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": dense}]}
    file.attrs.update({"keras_version": "2.2.4", "model_config": json.dumps(config)})
    weights = file.create_group("model_weights")
    weights.attrs["layer_names"] = [b"dense"]
    weights.create_group("dense").attrs["weight_names"] = [b"dense/kernel"]
    weights["dense/dense/kernel"] = np.ones((3, 3), np.float32)


def _stripped(name: str) -> Callable[[Path], Path]:
    def write(file: h5py.File) -> None:
        _keras2_dense(file)
        del file[name]

    return _hdf5(write)


def _linked(version: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with h5py.File(folder / "secret.h5", "w") as other:
            other["numbers"] = np.ones((3, 3), np.float32)

        def write(file: h5py.File) -> None:
            _keras2_dense(file)
            file.attrs["keras_version"] = version
            del file["model_weights/dense/dense/kernel"]
            file["model_weights/dense/dense/kernel"] = h5py.ExternalLink("secret.h5", "numbers")

        return _hdf5(write)(folder)

    return make


def _linked_archive(folder: Path) -> Path:
    with zipfile.ZipFile(_save(folder / "model.keras", layers.Dense(3, use_bias=False))) as saved:
        parts: dict[str, bytes | str] = {name: saved.read(name) for name in saved.namelist()}
    with h5py.File(folder / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink("secret.h5", "numbers")
        file.create_group("layers/dropout/vars")
    return _archive({**parts, "model.weights.h5": (folder / "w.h5").read_bytes()})(folder)


def _unpacking(folder: Path) -> Path:
    def write(file: h5py.File) -> None:
        _keras2_dense(file)
        del file["model_weights/dense/dense/kernel"]
        file["model_weights/dense/dense"].create_dataset("kernel", (2**12, 2**13), np.float32, chunks=True)

    return _hdf5(write)(folder)


def _text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def _json(folder: Path) -> Path:
    return _text("model.json", keras.Sequential([keras.Input((3,)), layers.Dense(3)]).to_json())(folder)


def _folder(folder: Path, saved: bytes | None = None) -> Path:
    (folder / "model").mkdir()
    if saved is not None:
        (folder / "model" / "saved_model.pb").write_bytes(saved)
    return folder / "model"


def _computation(folder: Path) -> Path:
    keras.Sequential([keras.Input((3,)), layers.Dense(3)]).export(folder / "model", verbose=False)
    return folder / "model"


def _lambda(suffix: str) -> Callable[[Path], Path]:
    return lambda folder: _save(folder / f"model{suffix}", layers.Lambda(lambda x: 2 * x, name="lambda"))


def _unregistered(suffix: str) -> Callable[[Path], Path]:
    return lambda folder: _save(folder / f"model{suffix}", Unregistered())


def _renamed(name: bytes) -> Callable[[Path], Path]:
    """An .h5 file whose group 'dense' has another name, of the same length."""

    def make(folder: Path) -> Path:
        path = _hdf5(_keras2_dense)(folder)
        path.write_bytes(path.read_bytes().replace(b"dense", name))
        return path

    return make


def _outside(file: h5py.File) -> None:
    """The weights as raw numbers of another file."""
    _keras2_dense(file)
    del file["model_weights/dense/dense/kernel"]
    file["model_weights/dense/dense"].create_dataset(
        "kernel", (3, 3), np.float32, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file: h5py.File) -> None:
    _keras2_dense(file)
    del file["model_weights/dense/dense/kernel"]
    layout = h5py.VirtualLayout((3, 3), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "numbers", (3, 3))
    file["model_weights/dense/dense"].create_virtual_dataset("kernel", layout)


def _weights_elsewhere(link: h5py.ExternalLink | h5py.SoftLink) -> Callable[[h5py.File], None]:
    def write(file: h5py.File) -> None:
        _keras2_dense(file)
        del file["model_weights"]
        file["model_weights"] = link

    return write


def _one_weight_many_times(file: h5py.File) -> None:
    _keras2_dense(file)
    file["model_weights/dense/dense/again"] = file["model_weights/dense/dense/kernel"]


def _many_small_from_nothing(file: h5py.File) -> None:
    _keras2_dense(file)
    for i in range(3):
        file["model_weights/dense"].create_dataset(f"k{i}", (1 << 23,), np.float32, compression="gzip")


def _many_members(folder: Path) -> Path:
    return _archive({**PARTS, **{f"assets/{i}": b"" for i in range(5000)}})(folder)


def _with_layer(layer: dict[str, object], suffix: str = ".keras") -> Callable[[Path], Path]:
    """A file of Keras 3 of a Dropout, described as another layer."""

    def make(folder: Path) -> Path:
        path = _save(folder / f"model{suffix}")
        described = {"module": "keras.layers", "registered_name": None, **layer}
        with zipfile.ZipFile(path) as saved:
            parts: dict[str, bytes | str] = {name: saved.read(name) for name in saved.namelist()}
        config = json.loads(parts["config.json"])
        config["config"]["layers"][1] = described
        return _archive({**parts, "config.json": json.dumps(config).encode()})(folder)

    return make


NOT_TRUSTED = "; no save makes that, do not trust it"
LAMBDA = (
    "'lambda' is a Lambda layer, whose Python code would run on loading; give what it does as a function of the "
    "layer's name, def lambda_(x): ..., in --custom FILE.py (custom_objects={'lambda_': ...} in Python), or run the "
    "code, if you trust who made the file, with --trust-code (trust_code=True in Python)"
)

# Whole messages: what they are wrapped in would be seen.
WHOLE = {
    "no name": (_archive({**PARTS, "./": b""}), f"its member './' points out of the archive{NOT_TRUSTED}"),
    "many members": (_many_members, f"it has 5,002 members{NOT_TRUSTED}"),
    "external": (
        _hdf5(_weights_elsewhere(h5py.ExternalLink("other.h5", "/w"))),
        f"its 'model_weights' is a link{NOT_TRUSTED}",
    ),
    "soft": (_hdf5(_weights_elsewhere(h5py.SoftLink("/none"))), f"its 'model_weights' is a link{NOT_TRUSTED}"),
    "raw numbers of another file": (_hdf5(_outside), f"its 'kernel' lies in another file{NOT_TRUSTED}"),
    "a virtual dataset": (_hdf5(_virtual), f"its 'kernel' lies in another file{NOT_TRUSTED}"),
    "one dataset, two names": (
        _hdf5(_one_weight_many_times),
        f"its 'kernel' is another name of what it holds already{NOT_TRUSTED}",
    ),
    "small ones from nothing": (
        _hdf5(_many_small_from_nothing),
        f"with 'k1' it would unpack 36 bytes to 67,108,900{NOT_TRUSTED}",
    ),
    "Lambda in .h5": (lambda folder: _lambda(".h5")(folder), LAMBDA),
    "Lambda in .keras": (lambda folder: _lambda(".keras")(folder), LAMBDA),
    "a SavedModel beside the file": (
        _with_layer({"class_name": "TFSMLayer", "config": {"name": "it", "filepath": "/tmp/x"}}),
        "'it' is a TFSMLayer, which runs a SavedModel that lies beside the file; replace it by layers of Keras, or "
        "load it, if you trust who made the file, with --trust-code (trust_code=True in Python)",
    ),
    "a vocabulary elsewhere": (
        _with_layer({"class_name": "StringLookup", "config": {"name": "it", "vocabulary": "/etc/passwd"}}),
        "'it' is a StringLookup that reads its vocabulary from '/etc/passwd', outside of the file; give the layer its "
        "words as a list, or load it, if you trust who made the file, with --trust-code (trust_code=True in Python)",
    ),
}


@pytest.mark.parametrize("case", WHOLE)
def test_the_whole_text(case: str, tmp_path: Path, refuses: Callable[..., None]) -> None:
    make, text = WHOLE[case]
    refuses(make(tmp_path), text)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_a_lambda_is_refused_by_the_file_and_not_by_keras(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras 3.9.2 to 3.11.2 ran it: here a Keras that runs what it is given stands for them."""
    path = _lambda(suffix)(tmp_path)
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **options: pytest.fail("Keras saw the file"))
    with pytest.raises(LoadError, match="Lambda layer, whose Python code would run"):
        keepdrop_exporter.load(path)


def test_weights_beyond_an_onnx_file_are_counted_before_they_are_read(
    tmp_path: Path, refuses: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 1 << 20)
    path = _hdf5(lambda file: _keras2_dense(file))(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["model_weights/dense/dense/kernel"]
        file["model_weights/dense/dense"]["kernel"] = np.ones((3, 1 << 18), np.float32)
    monkeypatch.setattr(hdf5, "layer_weights", lambda *args: pytest.fail("they were read"))
    refuses(path, ["786,432 numbers of 4 bytes, 0.0 GiB", "--format savedmodel"])


def test_a_heap_that_hdf5_would_read_for_ever(tmp_path: Path, refuses: Callable[..., None]) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.15.0"  # a text of any length: it lies in a global heap
    content = bytearray(path.read_bytes())
    objects = content.index(b"GCOL") + 16
    assert content[objects : objects + 2] == b"\x01\0" and b"2.15.0" in content[objects:]
    assert not hdf5._is_endless(path)
    content[objects : objects + 16] = bytes(16)
    path.write_bytes(content)
    refuses(path, "it is damaged (HDF5 would read its texts for ever); fetch or save it again")


def test_names_that_are_no_text(tmp_path: Path, refuses: Callable[..., None]) -> None:
    refuses(_renamed(b"\xff\xfense")(tmp_path), ["it is damaged"])


CASES = {
    "missing": (_missing, ["there is no such file"]),
    "wrong suffix": (_suffix, [".keras, .h5", "SavedModel", "model.save('name.keras')"]),
    "no zip": (_no_zip, ["it is damaged, or no .keras file", "save the model again"]),
    "no HDF5": (_no_hdf5, ["it is damaged, or no HDF5 file", "model.save('name.keras')"]),
    "cut short": (_cut_short(".keras"), ["it is damaged", "save the model again"]),
    "HDF5 cut short": (_cut_short(".h5"), ["it is damaged", "again"]),
    "a bit of a weight": (_flipped, ["it is damaged", "model.weights.h5", "again"]),
    "another zip": (_archive({"words.txt": b""}), ["it is no .keras file", "config.json"]),
    "a configuration that is no JSON": (_archive({**PARTS, "config.json": b"{"}), ["it is damaged", "not JSON"]),
    "a configuration of something else": (_archive({**PARTS, "config.json": b"[1]"}), ["Keras", "model"]),
    "member above": (_archive({**PARTS, "../up": b""}), ["'../up'", "points out of the archive"]),
    "absolute member": (_archive({**PARTS, "/etc/up": b""}), ["'/etc/up'", "points out of the archive"]),
    "member of another drive": (_archive({**PARTS, "C:\\up": b""}), ["up'", "points out of the archive"]),
    "symbolic link": (_archive({**PARTS, "assets/link": "/etc/passwd"}), ["'assets/link'", "symbolic link"]),
    "a member twice": (_archive(PARTS, {"config.json": b"{}"}), ["'config.json' twice", "do not trust it"]),
    "zip bomb": (_archive({**PARTS, "assets/zeros": bytes(1 << 27)}), ["'assets/zeros'", "134,217,728"]),
    "weights alone": (_weights_alone, ["it holds weights alone", "model.to_json()", "--weights"]),
    "HDF5 of something else": (_hdf5(lambda file: None), ["an HDF5 file without a Keras model"]),
    "a model without weights": (_stripped("model_weights"), ["a model without weights"]),
    "a weight lost": (_stripped("model_weights/dense/dense/kernel"), ["'dense/kernel'", "does not hold"]),
    "a weight that is a link": (_linked("2.2.4"), ["'kernel' is a link", "do not trust it"]),
    "the same in Keras 3": (_linked("3.8.0"), ["'kernel' is a link", "do not trust it"]),
    "a link in an archive": (_linked_archive, ["'0' is a link", "do not trust it"]),
    "a weight that unpacks to much": (
        _unpacking,
        ["'kernel' it would unpack 0 bytes to 134,217,728", "trust"],
    ),
    "JSON without weights": (_json, ["without their weights", "--weights FILE"]),
    "JSON of something else": (_text("model.json", "[]"), ["does not describe a Keras model"]),
    "no JSON": (_text("model.json", "{"), ["not JSON"]),
    "empty folder": (lambda folder: _folder(folder), ["this folder holds no saved_model.pb"]),
    "damaged SavedModel": (lambda folder: _folder(folder, b"\xff\xff"), ["saved_model.pb is damaged"]),
    "SavedModel without Keras": (_computation, ["a computation but not Keras' layers", "give the .keras"]),
    "Lambda in .keras": (_lambda(".keras"), ["Lambda layer", "a function of the layer's name", "--trust-code"]),
    "Lambda in .h5": (_lambda(".h5"), ["Lambda layer", "a function of the layer's name", "--trust-code"]),
    "unregistered in .keras": (_unregistered(".keras"), ["'Unregistered'", "--custom FILE.py", "custom_objects={'Unr"]),
    "unregistered in .h5": (_unregistered(".h5"), ["'Unregistered'", "--custom FILE.py", "custom_objects={'Unr"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_text_names_the_file_and_the_cure(case: str, tmp_path: Path, refuses: Callable[..., None]) -> None:
    make, phrases = CASES[case]
    refuses(make(tmp_path), phrases)


def test_the_file_is_named_by_its_hash(forecaster: Report, forecaster_file: Path) -> None:
    assert forecaster.metadata.source_sha256 == hashlib.sha256(forecaster_file.read_bytes()).hexdigest()


def test_a_folder_is_named_by_the_hash_of_its_listing(tmp_path: Path) -> None:
    for name in ("b.pb", "variables/a.index", "variables/z"):
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "model" / name).write_text(name)
    listing = subprocess.run(
        "find . -type f | sed 's|^./||' | LC_ALL=C sort | xargs sha256sum",
        shell=True, cwd=tmp_path / "model", capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert archive.sha256(tmp_path / "model") == hashlib.sha256(listing).hexdigest()
    (tmp_path / "model" / "b.pb").write_text("other")
    assert archive.sha256(tmp_path / "model") != hashlib.sha256(listing).hexdigest()


@pytest.mark.parametrize("by_layer", [True, False])
@pytest.mark.parametrize("units", [(3, 4), (3, 2, 2)], ids=["other shapes", "more layers"])
def test_weights_that_do_not_fit(
    units: tuple[int, ...], by_layer: bool, tmp_path: Path, refuses: Callable[..., None]
) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dropout(0.5), layers.Dense(2)])
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / ("other.h5" if by_layer else "other.weights.h5")
    other = keras.Sequential([keras.Input((3,)), *(layers.Dense(n) for n in units)])
    other.save(weights) if by_layer else other.save_weights(weights)
    refuses(tmp_path / "model.json", ["its weights do not fit"], weights=weights)


def test_two_weights_of_a_layer_exchanged(tmp_path: Path) -> None:
    """Their shapes are the same: the names tell."""
    path = _save(tmp_path / "model.h5", layers.BatchNormalization(name="norm"))
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.15.0"
        group = file["model_weights/norm"]
        names = list(group.attrs["weight_names"])
        group.attrs["weight_names"] = [names[i] for i in (1, 0, 2, 3)]
    with pytest.raises(LoadError, match="'gamma' the file has '.*norm/beta'"):
        keepdrop_exporter.load(path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_architecture_and_weights(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dropout(0.5), layers.Dense(2)])
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / f"weights{suffix}"
    model.save_weights(weights) if suffix == ".weights.h5" else model.save(weights)
    loaded = keepdrop_exporter.load(tmp_path / "model.json", weights=weights)
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(LoadError, match="it has weights of its own"):
        keepdrop_exporter.load(weights, weights=weights)


@pytest.mark.parametrize(("written", "named"), [(".keras", ".h5"), (".h5", ".keras"), (".h5", ".model")])
def test_a_file_is_what_it_holds_whatever_its_name(written: str, named: str, tmp_path: Path) -> None:
    """Keras 2 wrote HDF5 under any name, ``.keras`` among them."""
    saved = _save(tmp_path / f"saved{written}", layers.Dense(3))
    x = np.ones((2, 3), np.float32)
    expected = keras.models.load_model(saved)(x)
    np.testing.assert_array_equal(keepdrop_exporter.load(saved.rename(tmp_path / f"model{named}"))(x), expected)


def test_layers_that_keras_would_leave_random(tmp_path: Path) -> None:
    """Keras warns and goes on where a file lacks the layers of a list within a list."""

    @keras.saving.register_keras_serializable("tests")
    class Branches(keras.layers.Layer):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            self.branches = [[layers.Dense(3)]]

        def build(self, shape: object) -> None:
            self.branches[0][0].build(shape)

        def call(self, x: object) -> object:
            return self.branches[0][0](x)

    path = _save(tmp_path / "model.keras", Branches())
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "w.h5").write_bytes(parts["model.weights.h5"])
    with h5py.File(tmp_path / "w.h5", "r+") as file:
        names: list[str] = []
        file.visit(lambda name: names.append(name) if name.endswith("container") else None)
        if not names:  # older Keras 3 saves nothing of such a list
            with pytest.raises(LoadError, match="the rest of which Keras would leave random"):
                keepdrop_exporter.load(path)
            return
        keepdrop_exporter.load(path)
        del file[names[0]]
    parts["model.weights.h5"] = (tmp_path / "w.h5").read_bytes()
    with pytest.raises(LoadError, match="Skipping nested container"):
        keepdrop_exporter.load(_archive(parts)(tmp_path))


def test_a_model_in_memory_that_is_too_large(
    target: Path, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 40)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="dense"), layers.Dropout(0.5)], name="large")
    with pytest.raises(ConvertError, match="'large': its weights are 12 numbers of 4 bytes"):
        keepdrop_exporter.export(model, target)
    untouched()
