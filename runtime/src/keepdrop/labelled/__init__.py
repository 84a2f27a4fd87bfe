"""Labelled rows: what calibrates an artifact, and what it is judged by."""
