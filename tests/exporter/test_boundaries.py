"""Which modules of the exporter reach into Keras' private parts: keras_hooks, and what is listed until it does not."""

from __future__ import annotations

import ast
from pathlib import Path

import keepdrop_exporter

SOURCES = Path(keepdrop_exporter.__file__).parent
OWNER = "plan/keras_hooks.py"
# What reaches into tf2onnx is no matter of Keras.
OF_TF2ONNX = ("formats/tf2onnx_cures.py",)

# To shrink, never to grow: an entry that is no longer so fails as well.
REMAINS: dict[str, set[str]] = {
    "plan/draws.py": {"_inputs_struct"},
    "trace/stream_frontier.py": {"keras.src.ops."},
}

# Keras' names that a function or attribute of ours bears too, in a module that does not use Keras' of that name.
OF_KERAS = {"_functional", "_layers", "_nodes"}


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


def test_one_module_reaches_into_keras() -> None:
    trees = _trees()
    own = set().union(*map(_own_names, trees.values())) - OF_KERAS
    found = {name: used for name, tree in trees.items() if (used := private_names(tree) - own)}
    found = {name: used for name, used in found.items() if name not in (OWNER, *OF_TF2ONNX)}
    assert found == REMAINS


def test_that_it_would_be_noticed() -> None:
    owner = _trees()[OWNER]
    assert {"keras.src.backend", "_flatten_layers", "_inbound_nodes"} <= private_names(owner)
    for code in ("import keras.src", "x._functional", "getattr(x, '_layers')", "m = 'keras.src.models'"):
        assert private_names(ast.parse(code)), code
