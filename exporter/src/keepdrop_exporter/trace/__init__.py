"""Tracing: the model becomes one function of its inputs, the seed, the rows and the samples."""
