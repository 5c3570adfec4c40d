"""Trains the built-in model from scratch. In reading order: loop, words and clip, vae and decoder, unet; then judge and ablations,
which use `minisd.evaluate`, plot, and `__main__` (the command line)."""
