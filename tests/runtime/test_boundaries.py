"""The runtime's folders import in one order, and what stands below the command does not know the command line."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import keepdrop

PACKAGE = Path(keepdrop.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

# Each may import what stands before it. What `__init__` gathers and the public place of heads import from anywhere.
ORDER = [
    "errors",
    "npz",
    "artifact",
    "table",
    "calibration",
    "run",
    "answer",
    "until",
    "stream",
    "replay",
    "files",
    "model",
    "recursion",
    "scoring",
    "labelled",
    "service",
    "cli",
]
GATHERING = {"__init__.py", "heads.py"}
# The names of the package itself that a module may ask for.
OF_THE_PACKAGE = {"__version__"}
# Not the properties of a style sheet, `--text: #222` and `var(--text)`.
OPTION = re.compile(r"(?<![\w(-])--[a-z-]+\b(?!:)")


def imported(name: str, text: str) -> Iterator[str]:
    """The modules of the package that a source imports, without `keepdrop.` before them."""
    package = name.split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("keepdrop.") for alias in node.names if alias.name.startswith("keepdrop")
            )
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = [*above, *(node.module or "").split(".")] if node.level else (node.module or "").split(".")[1:]
            if node.level or (node.module or "").split(".")[0] == "keepdrop":
                path = [part for part in module if part]
                yield from [".".join(path)] if path else [alias.name for alias in node.names]


def arrows_back(sources: dict[str, str]) -> list[str]:
    """Imports of what comes later in `ORDER`, or is not in it."""
    found = []
    for name, text in sources.items():
        folder = name.removesuffix(".py").split("/")[0]
        if name in GATHERING:
            continue
        for module in imported(name, text):
            target = module.split(".")[0]
            if target not in OF_THE_PACKAGE and target not in ORDER[: ORDER.index(folder) + 1]:
                found.append(f"{name} imports {module}")
    return found


def options_in_messages(text: str) -> list[str]:
    """The strings of a source that name an option of the command line; docstrings may."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node.value for node in strings if id(node) not in docs and OPTION.search(node.value)]


def test_imports_run_one_way() -> None:
    assert arrows_back(SOURCES) == []


def test_an_arrow_back_would_be_seen() -> None:
    planted = {
        "run/engine.py": "from keepdrop.answer.prediction import Prediction",
        "answer/heads.py": "def f():\n    from ..cli import options",
        "artifact/check.py": "import keepdrop.model",
        "errors.py": "from . import until",
        "labelled/rows.py": "from keepdrop.model import Model\nfrom .fields import Field\nimport numpy",
        "stream/rows.py": "from keepdrop import Prediction",
    }
    assert arrows_back(planted) == [
        "run/engine.py imports answer.prediction",
        "answer/heads.py imports cli",
        "artifact/check.py imports model",
        "errors.py imports until",
        "stream/rows.py imports Prediction",
    ]


def test_every_folder_has_its_place() -> None:
    assert {name.removesuffix(".py").split("/")[0] for name in SOURCES} - {"__init__", "heads"} == set(ORDER)


def test_the_core_does_not_know_the_command_line() -> None:
    found = {name: options_in_messages(text) for name, text in SOURCES.items() if not name.startswith("cli/")}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_an_option_in_a_message_would_be_seen() -> None:
    planted = 'def f(n):\n    """As --window."""\n    raise ValueError(f"leave --window out, not {n}")'
    assert options_in_messages(planted) == ["leave --window out, not "]
    assert options_in_messages("x = 'a -- b', 'text--text'") == []
