"""Running: one call, checked, cut into chunks and given to workers."""
