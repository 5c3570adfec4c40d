"""Small files that change a checkpoint: LoRA changes its weights, textual inversion adds words to it.

The methods of pipelines for both are in adaptable.py. Nothing here is imported before one of them is called.
"""
