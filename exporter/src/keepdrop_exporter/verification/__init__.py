"""Verification: what was written equals stock Keras, sample by sample, or is not kept."""
