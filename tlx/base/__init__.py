"""Floor 0: configs, errors, files and parameter trees. Imports nothing of tlx above it."""
