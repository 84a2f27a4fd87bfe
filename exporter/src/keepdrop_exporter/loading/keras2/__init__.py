"""What Keras 2 files need, and only they: descriptions, weights and functions as Keras 3 has them."""
