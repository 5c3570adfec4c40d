"""The error raised when reading or writing checkpoints."""


class CheckpointError(ValueError):
    """A checkpoint cannot be found or read, or does not fit. Nothing was loaded or written."""
