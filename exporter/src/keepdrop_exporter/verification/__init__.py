"""Verification: what was written equals stock Keras, sample by sample, or is not kept."""

ATOL = 1e-5
"""Absolute tolerance: some tens of float32 roundings of numbers near 1, in another order of summation."""
RTOL = 1e-4
"""Relative tolerance: the same for outputs of any scale, after a recurrence of some hundred steps."""
