"""Tuning: which dropout rate, and where, makes the intervals of a trained model best."""
