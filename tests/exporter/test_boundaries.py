"""The exporter's folders import in one order, and two modules reach into Keras' private parts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import keepdrop_exporter

SOURCES = Path(keepdrop_exporter.__file__).parent
OWNERS = ("plan/keras_hooks.py", "plan/keras_graphs.py")
# What reaches into tf2onnx is no matter of Keras.
OF_TF2ONNX = ("formats/tf2onnx_cures.py",)

# Keras' names that a function or attribute of ours bears too, in a module that does not use Keras' of that name.
OF_KERAS = {"_functional", "_layers", "_nodes"}
# What the standard library's named tuples have for everyone.
OF_NAMED_TUPLES = {"_asdict", "_fields", "_replace"}


# Each may import what stands before it; what `__init__` gathers imports from anywhere.
ORDER = [
    "errors",
    "backend",
    "writing",
    "monte_carlo",
    "plan",
    "loading",
    "scalers",
    "scaling",
    "retrofit",
    "trace",
    "formats",
    "verification",
    "pipeline",
    "summarising",
    "options",
    "tuning",
    "cli",
]
PACKAGE = keepdrop_exporter.__name__


def imported(name: str, tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a module imports, without the package's name before them."""
    folder = name.split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix(f"{PACKAGE}.") for a in node.names if a.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            named = (node.module or "").split(".") if node.module else []
            if node.level:
                path = [*folder[: len(folder) - node.level + 1], *named]
            elif named[0] == PACKAGE:
                path = named[1:]
            else:
                continue
            yield from [".".join(path)] if path else [alias.name for alias in node.names]


def arrows_back(trees: dict[str, ast.Module]) -> list[str]:
    """Imports of what comes later in `ORDER`, or is not in it."""
    found = []
    for name, tree in trees.items():
        place = name.removesuffix(".py").split("/")[0]
        before = ORDER if name == "__init__.py" else ORDER[: ORDER.index(place) + 1]
        if "pipeline" in before[:-1]:
            before = [*before, PACKAGE]  # the verbs call what users call
        found += [f"{name} imports {module}" for module in imported(name, tree) if module.split(".")[0] not in before]
    return found


def _own_names(tree: ast.Module) -> set[str]:
    """Private names that a module defines itself: functions, classes, variables, attributes of its objects."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            names.add(node.attr)
    return names


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("self", "cls")


def private_names(tree: ast.Module) -> set[str]:
    """What a module uses of others' private parts: imports and texts of ``keras.src``, names with a dash before."""
    own = _own_names(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("keras.src", "keras._")):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(("keras.src", "keras._"))}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("keras.src."):
            found.add(node.value)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr not in own and not _is_super(node.value):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_") and name.value not in own:
                found.add(str(name.value))
    return found


def _is_super(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "super"


def _trees() -> dict[str, ast.Module]:
    return {path.relative_to(SOURCES).as_posix(): ast.parse(path.read_text("utf8")) for path in SOURCES.rglob("*.py")}


def test_imports_run_one_way() -> None:
    assert arrows_back(_trees()) == []


def test_every_folder_has_its_place() -> None:
    assert {name.removesuffix(".py").split("/")[0] for name in _trees()} - {"__init__"} == set(ORDER)


def test_an_arrow_back_would_be_seen() -> None:
    planted = {
        "plan/draws.py": "from keepdrop_exporter.trace.function import trace",
        "loading/keras2/weights.py": "def f():\n    from ...retrofit import retrofitted",
        "formats/savedmodel.py": "import keepdrop_exporter.pipeline\nimport tensorflow",
        "errors.py": "import keepdrop_exporter",
        "retrofit.py": "from .verification.whole import verify_plan\nfrom . import plan, cli",
        "trace/axes.py": "from keepdrop_exporter import export\nfrom .numbers import draw",
        "__init__.py": "from .cli import export",
    }
    assert arrows_back({name: ast.parse(text) for name, text in planted.items()}) == [
        "plan/draws.py imports trace.function",
        "loading/keras2/weights.py imports retrofit",
        "formats/savedmodel.py imports pipeline",
        "errors.py imports keepdrop_exporter",
        "retrofit.py imports verification.whole",
        "retrofit.py imports cli",
        "trace/axes.py imports export",
    ]


def test_two_modules_reach_into_keras() -> None:
    trees = _trees()
    own = set().union(*map(_own_names, trees.values())) - OF_KERAS
    found = {name: used for name, tree in trees.items() if (used := private_names(tree) - own - OF_NAMED_TUPLES)}
    found = {name: used for name, used in found.items() if name not in (*OWNERS, *OF_TF2ONNX)}
    assert found == {}


def test_that_it_would_be_noticed() -> None:
    hooks, graphs = (private_names(_trees()[owner]) for owner in OWNERS)
    assert {"keras.src.backend", "_flatten_layers", "_inbound_nodes"} <= hooks
    assert {"keras.src.models.functional", "_nodes_by_depth"} <= graphs
    for code in ("import keras.src", "x._functional", "getattr(x, '_layers')", "m = 'keras.src.models'"):
        assert private_names(ast.parse(code)), code
