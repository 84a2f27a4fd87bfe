"""Planning: what a model draws, in which order, what its outputs are, what it is tried on and what counts as equal."""

ATOL = 1e-5
"""Absolute tolerance: some tens of float32 roundings of numbers near 1, in another order of summation."""
RTOL = 1e-4
"""Relative tolerance: the same for outputs of any scale, after a recurrence of some hundred steps."""
