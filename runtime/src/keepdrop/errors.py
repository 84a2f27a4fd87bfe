"""Every error keepdrop raises on purpose; each is a fitting builtin too, so that callers need not know this tree.

    KeepdropError
    ├── ArtifactError      ValueError: the file is not an artifact this version can run
    │   └── ArtifactMissing    FileNotFoundError: there is no such file
    ├── InputError         ValueError: an argument or an input array does not fit the artifact
    │   └── TooLarge           MemoryError: the call does not fit in memory; says by how much, and what to ask instead
    └── ExporterMissing    ImportError: a verb of keepdrop-exporter was called without it

The exporter adds its own below the same root (``keepdrop_exporter.errors``).
"""

from __future__ import annotations


class KeepdropError(Exception):
    """Root of every error keepdrop raises on purpose; its text says what to do."""


class ArtifactError(KeepdropError, ValueError):
    """The file is not a keepdrop artifact, is damaged, contradicts itself, or bears an unknown contract version."""


class ArtifactMissing(ArtifactError, FileNotFoundError):
    """There is no file of that name, or it may not be read."""


class InputError(KeepdropError, ValueError):
    """An argument or an input array does not fit the artifact."""


class TooLarge(InputError, MemoryError):
    """The call does not fit in its memory budget, or the memory it was promised is not there."""


class ExporterMissing(KeepdropError, ImportError):
    """A verb of keepdrop-exporter was called where only the runtime is installed."""
