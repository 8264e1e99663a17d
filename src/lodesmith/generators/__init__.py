"""Generators: prompts → texts. A generator is the first name of `__all__` in its file."""
