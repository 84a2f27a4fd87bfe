import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keepdrop

TOP = Path(__file__).parents[2]

# Loads the heavy dependencies first: what they pull in is theirs, what comes on top is ours.
PROBE = """
import json, sys
import numpy, numpy.typing, onnxruntime
before = set(sys.modules)
{statement}
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(root for root in roots - set(sys.stdlib_module_names) if not root.startswith("_"))))
"""


def pulled_in(statement: str) -> list[str]:
    probe = PROBE.format(statement=statement)
    return json.loads(subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, text=True).stdout)


def test_importing_pulls_in_only_numpy_onnxruntime_and_the_standard_library() -> None:
    assert pulled_in("import keepdrop") == ["keepdrop"]


def test_the_probe_sees_what_else_is_imported() -> None:
    assert pulled_in("import keepdrop.cli") == ["click", "keepdrop"]


def of_keepdrop(statement: str) -> set[str]:
    """What of the package a statement leaves imported: folders and modules below it."""
    probe = f"import json, sys, keepdrop\n{statement}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, text=True)
    return {name.split(".")[1] for name in json.loads(done.stdout) if name.startswith("keepdrop.")}


def test_a_prediction_does_not_wait_for_what_files_and_streams_need() -> None:
    others = {"stream", "files", "labelled", "recursion", "scoring"}
    assert of_keepdrop("keepdrop.load, keepdrop.Model, keepdrop.Prediction").isdisjoint({*others, "service", "cli"})
    assert of_keepdrop("from keepdrop.cli import main").isdisjoint({*others, "service"})
    assert of_keepdrop("keepdrop.Stream, keepdrop.evaluate, keepdrop.rollout, keepdrop.scorer") >= others


def test_public_names() -> None:
    names = [
        "ArtifactError",
        "ArtifactMissing",
        "ExporterMissing",
        "InputError",
        "KeepdropError",
        "Model",
        "Prediction",
        "Stream",
    ]
    names += [
        "Table",
        "TooLarge",
        "__version__",
        "calibrate",
        "decided",
        "evaluate",
        "load",
        "rollout",
        "scorer",
        "standard_error",
    ]
    assert sorted(keepdrop.__all__) == names
    assert all(hasattr(keepdrop, name) for name in names)
    assert set(names) <= set(dir(keepdrop))
    with pytest.raises(AttributeError, match=r"^module 'keepdrop' has no attribute 'sampler'$"):
        _ = keepdrop.sampler


def test_the_version_has_one_owner() -> None:
    runtime, exporter = (TOP / name / "pyproject.toml" for name in ("runtime", "exporter"))
    assert 'version = { attr = "keepdrop.__version__" }' in runtime.read_text()
    assert re.findall(r'^version = "(.*)"', exporter.read_text(), re.MULTILINE) == [keepdrop.__version__]
    assert re.findall(r'"keepdrop==(.*?)"', exporter.read_text()) == [keepdrop.__version__]


def test_only_session_imports_onnxruntime_and_only_the_command_imports_click() -> None:
    package = Path(keepdrop.__file__).parent
    sources = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}

    def importers(module: str) -> set[str]:
        return {name for name, text in sources.items() if re.search(rf"^\s*(import|from) {module}", text, re.M)}

    assert importers("onnxruntime") == {"run/session.py"}
    assert importers("pyarrow") == {"files/arrow.py"}
    assert importers("matplotlib") == {"files/plot.py"}
    assert importers("click") == {name for name in sources if name.startswith("cli/")} - {"cli/measure.py"}
