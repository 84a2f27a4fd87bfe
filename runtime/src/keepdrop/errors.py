"""Every error keepdrop raises on purpose.

    KeepdropError
    ├── ArtifactError      the file is not an artifact this version can run
    ├── InputError         an argument or an input array does not fit the artifact
    └── ExporterMissing    a verb of keepdrop-exporter was called without it

The exporter adds its own below the same root (``keepdrop_exporter.errors``).
"""

from __future__ import annotations


class KeepdropError(Exception):
    """Root of every error keepdrop raises on purpose; its text says what to do."""


class ArtifactError(KeepdropError):
    """The file is missing, is not a keepdrop artifact, or bears an unknown contract version."""


class InputError(KeepdropError):
    """An argument or an input array does not fit the artifact."""


class ExporterMissing(KeepdropError):
    """A verb of keepdrop-exporter was called where only the runtime is installed."""
