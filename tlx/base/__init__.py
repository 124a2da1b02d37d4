"""Floor 0: what everything else stands on. Imports nothing of tlx above it."""
