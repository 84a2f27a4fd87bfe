"""Answering: what samples say of a row."""
