"""Fine-tunes a checkpoint on your own images: `python -m minisd.finetune`.

In reading order: settings (the flags), examples (a folder of images and captions), latents (the UNet's training data), objective
(the loss), learner (what all methods share), and one file per method: low_rank, new_word, whole_network, control. The other files
are prior (class images for DreamBooth), recomputed (activation checkpointing), forecast (time and memory), card, session (the whole
run), and `__main__` (the command line).
"""
