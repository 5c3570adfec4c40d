"""Prompts that are more than text: weights and chunks as web interfaces read them, fewer CLIP layers, or states made elsewhere.

`prompt_weighting`, `clip_skip`, `prompt_embeds` and `negative_prompt_embeds` are arguments of every pipeline's call.
"""
