"""Both distributions build, hold what they need, and the runtime's runs in an environment with nothing else."""

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import keepdrop

TOP = Path(__file__).parents[1]
FORECASTER = TOP / "tests" / "runtime" / "data" / "forecaster.onnx"


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels and sdists of both; the wheels are built from the sdists, as a release's are."""
    folder = tmp_path_factory.mktemp("dist")
    for name in ("runtime", "exporter"):
        sources = folder / name  # a copy, since a build leaves folders behind
        shutil.copytree(TOP / name, sources, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", sources)
    return folder / "dist"


def test_names_and_version(dist: Path) -> None:
    version = keepdrop.__version__
    expected = [
        f"{name}-{version}{end}"
        for name in ("keepdrop", "keepdrop_exporter")
        for end in (".tar.gz", "-py3-none-any.whl")
    ]
    assert sorted(path.name for path in dist.iterdir()) == sorted(expected)


@pytest.mark.parametrize("name", ["keepdrop", "keepdrop_exporter"])
def test_every_module_is_in_the_wheel(dist: Path, name: str) -> None:
    source = TOP / ("runtime" if name == "keepdrop" else "exporter") / "src"
    modules = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    (wheel,) = dist.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert modules | {f"{name}/py.typed"} <= held
    assert any(path.endswith("licenses/LICENSE") for path in held)
    (sdist,) = dist.glob(f"{name}-*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(path.endswith("/LICENSE") for path in archive.getnames())


def test_the_runtime_runs_where_nothing_else_is_installed(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("keepdrop-*.whl")
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    constraints = TOP / "constraints.txt"
    run(sys.executable, "-m", "pip", "--python", python, "--quiet", "install", "--constraint", constraints, wheel)
    out = run(python, "-I", TOP / "examples" / "device.py", FORECASTER)
    assert "row 1: mean" in out
    listed = run(python, "-I", "-c", "import keepdrop, sys; print(keepdrop.__file__, 'tensorflow' in sys.modules)")
    assert str(tmp_path / "bare") in listed and listed.endswith("False\n")
    command = python.with_name("keepdrop.exe" if sys.platform == "win32" else "keepdrop")
    assert run(command, "--version") == f"keepdrop, version {keepdrop.__version__}\n"
    refused = subprocess.run([command, "export", "m.keras"], capture_output=True, text=True)
    assert refused.returncode == 1 and f"install keepdrop-exporter {keepdrop.__version__}" in refused.stderr


def test_the_exporters_wheel_brings_its_verbs(dist: Path, tmp_path: Path) -> None:
    wheels = [path for path in dist.glob("*.whl")]
    run(sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", tmp_path / "both", *wheels)
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'both')!r}); from keepdrop.cli import main; "
    script += "import keepdrop_exporter; assert keepdrop_exporter.__file__.startswith(sys.path[0]); main()"
    assert "--dropout" in run(sys.executable, "-I", "-c", script, "retrofit", "--help")
