"""How well a model of the second world follows prompts, and how much its images vary where the prompt leaves something open."""
