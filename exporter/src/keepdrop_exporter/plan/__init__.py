"""Planning: what a model draws, in which order, what its outputs are, and what it is tried on."""
