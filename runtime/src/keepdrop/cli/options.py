"""Options that verbs share."""

from __future__ import annotations

import click

interval_option = click.option(
    "--interval",
    "levels",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    metavar="LEVEL",
    help="Write the central interval of this level too, such as 0.9; can be repeated.",
)
