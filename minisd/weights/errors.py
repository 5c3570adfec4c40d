"""The one error of everything that reads or writes checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read, or made to fit; nothing was loaded or written."""
