"""Does the model draw what it is told? In reading order: findings, prompts, geometry and detector (the judges), rates, protocol,
report, and `__main__`, the command line."""
