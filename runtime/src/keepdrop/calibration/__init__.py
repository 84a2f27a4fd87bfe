"""Calibrating: from errors on labelled rows to where an observation falls. Pure numpy."""
