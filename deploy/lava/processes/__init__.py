"""Lava processes and their CPU models, nothing else: Lava imports and executes every file in this folder."""
