"""What scripts/portability replays with: where it is, what is missing, and how it is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnxruntime

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keepdrop-portability"
NODE_MODULES = HOME / "npm" / "node_modules"
CPP = HOME / "cpp"
QEMU = HOME / "qemu" / "usr" / "bin"
# The oldest Debian with onnxruntime; its qemu runs aarch64's onnxruntime, and 7.2 of Debian 12 crashes in it.
SUITE = "trixie"
PYTHON = "3.13"  # that suite's
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
INSTALL = "scripts/portability --install"


class Processor(NamedTuple):
    """Another processor: Debian's name of it, qemu's, a model that has no more than many devices, and the packages."""

    debian: str
    qemu: str
    model: str
    libraries: str
    packages: tuple[str, ...]
    wheels: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return HOME / "roots" / self.debian

    @property
    def command(self) -> list[str]:
        root = self.root
        return [str(QEMU / f"qemu-{self.qemu}"), "-cpu", self.model, "-L", str(root), f"{root}/usr/bin/python{PYTHON}"]

    @property
    def environment(self) -> dict[str, str]:
        """What its Python needs in place of ours."""
        usr = self.root / "usr"
        # BLAS is found through Debian's alternatives, which only an installed system has.
        libraries = [usr / "lib" / self.libraries / name for name in ("blas", "lapack")]
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "PYTHONHOME": str(usr),
            "PYTHONPATH": os.pathsep.join(map(str, [self.root / "site", usr / "lib/python3/dist-packages"])),
            "OPENBLAS_NUM_THREADS": "1",
        }


PROCESSORS = (
    Processor(
        "arm64",
        "aarch64",
        "cortex-a72",
        "aarch64-linux-gnu",
        ("python3", "libstdc++6"),
        ("numpy", f"onnxruntime=={onnxruntime.__version__}", "click"),
    ),
    Processor("armhf", "arm", "cortex-a15", "arm-linux-gnueabihf", ("python3-onnxruntime", "python3-click")),
    Processor("riscv64", "riscv64", "max", "riscv64-linux-gnu", ("python3-onnxruntime", "python3-click")),
)


def chromium() -> str | None:
    """The browser's command, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def library() -> Path:
    """onnxruntime's shared library, which the wheel brings."""
    return next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))


def missing(programs: tuple[str, ...] = (), files: tuple[Path, ...] = ()) -> list[str]:
    """What of these is not here, each with what brings it."""
    told = [f"no {name} (install it)" for name in programs if shutil.which(name) is None]
    return [*told, *(f"no {path.relative_to(HOME)} ({INSTALL})" for path in files if not path.exists())]


def install() -> Iterator[tuple[str, str | None]]:
    """Download what is missing; gives each thing's name, and why it could not be had."""
    jobs = [("npm packages", _npm), ("headers for C++", _headers), ("qemu", _qemu)]
    jobs += [(f"Python for {each.debian}", lambda each=each: _processor(each)) for each in PROCESSORS]
    for name, job in jobs:
        try:
            job()
        except (OSError, subprocess.CalledProcessError) as error:
            output = getattr(error, "stderr", "") or str(error)
            yield name, " ".join(output.split())[-300:]
        else:
            yield name, None


def _run(*command: object, **options: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


def _npm() -> None:
    if all((NODE_MODULES / name).exists() for name in ("onnxruntime-node", "onnxruntime-web")):
        return
    folder = NODE_MODULES.parent
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text("{}")
    # onnxruntime-node brings its CPU library; what its postinstall script fetches is for GPUs, and fails offline.
    _run(
        "npm",
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "onnxruntime-node",
        "onnxruntime-web",
        cwd=folder,
    )


def _headers() -> None:
    if not (CPP / "usr/include/onnxruntime").exists():
        _unpack(CPP, "amd64", "libonnxruntime-dev", "nlohmann-json3-dev", closed=False)


def _qemu() -> None:
    if not QEMU.exists():
        _unpack(QEMU.parents[1], "amd64", "qemu-user", closed=False)


def _processor(processor: Processor) -> None:
    root = processor.root
    if root.exists():
        return
    partial = root.with_name(f"{root.name}.partial")
    _unpack(partial, processor.debian, *processor.packages, closed=True)
    (partial / "lib").symlink_to("usr/lib")  # where a program of that processor names its loader
    if processor.wheels:
        platforms = [f"--platform=manylinux_2_{minor}_{processor.qemu}" for minor in (27, 28)]
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            f"--python-version={PYTHON}",
        ]
        _run(*pip, *platforms, f"--target={partial / 'site'}", *processor.wheels)
    partial.rename(root)


def _unpack(target: Path, architecture: str, *packages: str, closed: bool) -> None:
    """Unpack Debian packages to a folder of their own; ``closed``: with all they depend on. Nothing is installed."""
    state = HOME / "apt" / architecture
    for folder in ("lists/partial", "archives/partial", "preferences.d"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": state / "preferences.d",
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
        "Acquire::Languages": "none",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in settings.items())]
    _run(*apt, "update")
    if closed:
        _run(*apt, "install", "--no-install-recommends", "--download-only", *packages)
    else:
        _run(*apt, "download", *packages, cwd=state / "archives")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for package in sorted(state.glob("archives/*.deb")):
        _run("dpkg-deb", "-x", package, target)
    shutil.rmtree(state)


def _mirror() -> str:
    """Debian's archive as this machine reaches it."""
    lines = _run("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)").splitlines()
    found = [line.split(" ", 2)[2] for line in lines if line.startswith("Debian Debian ")]
    if not found:
        raise OSError("this machine's apt knows no archive of Debian; run apt-get update first")
    return found[0]
