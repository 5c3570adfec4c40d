"""Small files that change a checkpoint: LoRA changes its weights, textual inversion adds words to it.

Pipelines have methods for both, in adaptable.py. Nothing here is imported before one of them is called.
"""
