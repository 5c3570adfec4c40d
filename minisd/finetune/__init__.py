"""Teaching a checkpoint something new from your own pictures: `python -m minisd.finetune`.

In reading order: settings (what is asked for), examples (a folder of pictures and captions), latents (what the UNet learns from),
objective (the loss), learner (what every method has in common) and the methods, one a file: low_rank, new_word, whole_network,
control. Around them: prior (pictures of the class, for DreamBooth), recomputed (less memory), forecast (time and memory), card,
session (all of it together), and `__main__`, the command line.
"""
