"""As many samples as the question needs."""
