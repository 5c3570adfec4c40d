"""The command that converts and inspects checkpoints: `python -m weights_convert`. It stands on `minisd.weights`.

In reading order: __main__ (the command, and converting), inspect (what a file is).
"""

import minisd  # noqa: F401  # before PyTorch: from here on Ctrl-C ends the command quietly
