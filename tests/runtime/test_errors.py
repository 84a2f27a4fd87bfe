"""The tree of errors is the one its module draws, and each is a builtin that callers know."""

import pickle

import pytest

from keepdrop import errors

TREE = {
    "KeepdropError": (Exception,),
    "ArtifactError": (errors.KeepdropError, ValueError),
    "ArtifactMissing": (errors.ArtifactError, FileNotFoundError),
    "InputError": (errors.KeepdropError, ValueError),
    "TooLarge": (errors.InputError, MemoryError),
    "ExporterMissing": (errors.KeepdropError, ImportError),
}


def test_the_tree() -> None:
    found = {name: kind.__bases__ for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert found == TREE


@pytest.mark.parametrize("name", TREE)
def test_the_tree_is_drawn(name: str) -> None:
    (line,) = [line for line in errors.__doc__.splitlines() if line.strip(" │├└─").startswith(name)]
    builtins = [base.__name__ for base in TREE[name] if base.__module__ == "builtins" and base is not Exception]
    assert all(f"{builtin}:" in line for builtin in builtins)


@pytest.mark.parametrize("name", TREE)
def test_an_error_says_its_text_and_passes_between_processes(name: str) -> None:
    error = getattr(errors, name)("what to do")
    assert str(error) == "what to do"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == "what to do"
