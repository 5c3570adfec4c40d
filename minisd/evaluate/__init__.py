"""Does the model draw what it is told? In reading order: findings, prompts, geometry and detector (the judges), rates, wear,
protocol, report; then model and `__main__`, the command line, and curves. It imports the tiny world and the core, never the
trainings."""
