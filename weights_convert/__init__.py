"""The command that converts and inspects checkpoints: `python -m weights_convert`. It stands on `minisd.weights`.

In reading order: __main__ (the command, and converting), inspect (what a file is), other_files (what is no checkpoint).
"""

import minisd  # noqa: F401  # before PyTorch: from here on Ctrl-C ends the command quietly
