"""Official checkpoints ↔ minisd: the same tensors under other names. Imports nothing of minisd.

In reading order: diffusers and single_file (the names, as rules that are data), shapes (what there must be), files and folder (what
is on the disk), identify, official and known (what a file is), checkpoint (reading and writing all of it), __main__ (the command).
"""

from .checkpoint import Checkpoint, read_any, read_single_file, write_diffusers, write_minisd
from .diffusers import from_diffusers, to_diffusers
from .files import CheckpointError, as_settings, read_tensors, write_folder
from .folder import listing, merges_in, part_files, read_weights, stray_merge, weight_files

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "as_settings",
    "from_diffusers",
    "listing",
    "merges_in",
    "part_files",
    "read_any",
    "read_single_file",
    "read_tensors",
    "read_weights",
    "stray_merge",
    "to_diffusers",
    "weight_files",
    "write_diffusers",
    "write_folder",
    "write_minisd",
]
