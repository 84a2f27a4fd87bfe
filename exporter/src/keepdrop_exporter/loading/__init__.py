"""Reading: a file of Keras 3 or Keras 2, however it was written, becomes a stock Keras 3 model."""
