"""`keepdrop.heads`: the public place of `keepdrop.answer.heads`."""

from .answer.heads import DECLARABLE, Heads, resolved

__all__ = ["DECLARABLE", "Heads", "resolved"]
