"""Measures how well the model follows prompts. In reading order: findings, prompts, geometry and detector (the judges), rates,
wear, protocol, report; then model, `__main__` (the command line) and curves. It imports the tiny world and the core, but not the
training code."""
