"""Official checkpoints ↔ minisd: the same tensors under other names. Imports nothing of minisd.

Names are translated by rules that are data; the few tensors that also change their shape are told by shape alone.
"""

from .diffusers import from_diffusers, to_diffusers

__all__ = ["from_diffusers", "to_diffusers"]
