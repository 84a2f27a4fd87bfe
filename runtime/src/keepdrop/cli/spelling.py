"""Spelling: messages speak of parameters (``memory=``), and the command of its options (``--memory``).

The one place where the one becomes the other: what a message writes as ``name=`` is a parameter, and where the command
at hand has an option for it, the user reads that.
"""

from __future__ import annotations

import re

import click

# `name=`, or `name=value`; what is called, as in `predict(quantiles=(0.05, 0.95))`, is Python's and stays.
QUOTES = "'\""
PARAMETER = re.compile(r"(?<!\w)(?<!\w\()(?P<name>[a-z_]+)=(?P<value>\w[\w.]*|'[^']*'|\"[^\"]*\")?(?![\w(\[{=])")

# What is said of the export, whatever the command at hand.
OF_EXPORT = (
    (re.compile(r"\bwith streaming=False\b"), "without --streaming"),
    (re.compile(r"\bwith streaming=True\b"), "with --streaming"),
    (re.compile(r"\bformat='savedmodel'"), "--format savedmodel"),
    (
        re.compile(r"keepdrop_exporter\.summarise\(FILE, PLAIN, remove=True\)"),
        "keepdrop summarise FILE --remove -o PLAIN",
    ),
    (re.compile(r"\bheads=\{'([^']+)': '([^']+)'\}"), r"--head \1=\2"),
)


def spelled(message: str, command: click.Command) -> str:
    """A message as the users of this command read it."""
    options = {
        name: max(parameter.opts, key=len)
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (parameter.name, max(parameter.opts, key=len).lstrip("-").replace("-", "_"))
    }

    def option(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"] or ""
        if name not in options:
            return match[0]
        return f"{options[name]} {value.strip(QUOTES)}" if value else options[name]

    for pattern, text in OF_EXPORT:
        message = pattern.sub(text, message)
    return PARAMETER.sub(option, message)
