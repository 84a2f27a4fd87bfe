"""`keepdrop.heads`: the public place of `keepdrop.answer.heads`."""

from .answer.heads import DECLARABLE, Heads, parsed, resolved

__all__ = ["DECLARABLE", "Heads", "parsed", "resolved"]
