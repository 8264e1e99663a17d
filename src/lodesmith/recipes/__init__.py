"""The composition root: recipes, systems by their spelling, the quickstart and the Python API."""
