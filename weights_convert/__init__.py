"""The command that converts and inspects checkpoints, `python -m weights_convert`, built on `minisd.weights`.

In reading order: __main__ (the command and the conversion), inspect (what a file is), other_files (files other than checkpoints).
"""

import minisd  # noqa: F401  # before PyTorch: from here on Ctrl-C ends the command quietly
