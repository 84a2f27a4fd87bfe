"""Formats: the traced function as an ONNX file or a SavedModel."""
