"""The documentation builds as a site without a warning, and its reference has every public name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keepdrop
import keepdrop_exporter

TOP = Path(__file__).parents[1]
QUIET = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config, "--site-dir", site]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=QUIET, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the group docs is not installed")
    site = tmp_path_factory.mktemp("site")
    done = build(TOP / "mkdocs.yml", site)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    return site


@pytest.mark.parametrize("package", [keepdrop, keepdrop_exporter], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name(site: Path, package) -> None:
    page = (site / "reference" / package.__name__ / "index.html").read_text(encoding="utf-8")
    anchors = set(re.findall(rf'id="{package.__name__}\.(\w+)"', page))
    assert set(package.__all__) - {"__version__"} <= anchors


def test_every_page_is_in_it(site: Path) -> None:
    pages = {path.stem for path in (TOP / "docs").glob("*.md")} - {"index"}
    assert pages <= {path.parent.name for path in site.glob("*/index.html")}


def test_a_link_to_nowhere_would_be_seen(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the group docs is not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Here\n\n[there](there.md) and [here](#nowhere)\n")
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {TOP / 'mkdocs.yml'}\nplugins: [search]\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0 and "there.md" in done.stderr and "#nowhere" in done.stderr
