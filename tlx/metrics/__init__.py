"""Metrics: numpy arrays or texts in, numbers out. Libraries are imported when they are used."""
