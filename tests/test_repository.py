"""What is written about the repository is true of it: paths that are named, versions that are tried."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PAGES = ["CONTRIBUTING.md", "SECURITY.md", "README.md", "examples/README.md"]
# A path in backticks or a command line of ours: at least one slash, and a suffix or one of these folders.
NAMED = re.compile(r"`((?:runtime|exporter|tests|docs|scripts|examples)/[\w./-]*)`|^ +(scripts/\w+)", re.MULTILINE)
PYTHONS = re.compile(r'"Programming Language :: Python :: (3\.\d+)"')


def named_paths(text: str) -> list[str]:
    return [first or second for first, second in NAMED.findall(text)]


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_are_named_are_there(page: str) -> None:
    paths = named_paths((TOP / page).read_text(encoding="utf-8"))
    assert [path for path in paths if not (TOP / path).exists()] == []


def test_paths_are_found_in_a_page() -> None:
    text = "see `tests/runtime/gone.py` and\n\n    scripts/nothing --all\n"
    assert named_paths(text) == ["tests/runtime/gone.py", "scripts/nothing"]
    assert len(named_paths((TOP / "CONTRIBUTING.md").read_text(encoding="utf-8"))) > 10


def pythons(distribution: str) -> list[str]:
    return PYTHONS.findall((TOP / distribution / "pyproject.toml").read_text())


def test_the_workflow_tries_the_oldest_and_the_newest_python() -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load((TOP / ".github/workflows/tests.yml").read_text())["jobs"]
    for job, distribution in (("everything", "exporter"), ("device", "runtime")):
        tried = jobs[job]["strategy"]["matrix"]["include"]
        declared = pythons(distribution)
        assert {declared[0], declared[-1]} == {each["python"] for each in tried}
        assert {each["os"].split("-")[0] for each in tried} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("distribution", ["runtime", "exporter"])
def test_the_oldest_python_is_the_one_that_is_required(distribution: str) -> None:
    text = (TOP / distribution / "pyproject.toml").read_text()
    assert f'requires-python = ">={pythons(distribution)[0]}' in text


@pytest.mark.parametrize("path", sorted((TOP / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_are_yaml(path: Path) -> None:
    assert isinstance(pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8")), dict)
