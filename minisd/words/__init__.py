"""Prompts with more than plain text: weights and chunks as in web interfaces, fewer CLIP layers, or precomputed text states.

`prompt_weighting`, `clip_skip`, `prompt_embeds` and `negative_prompt_embeds` are arguments of every pipeline's call.
"""
