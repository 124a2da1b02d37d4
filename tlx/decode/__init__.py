"""Decoding: choice of the next token, and the loops around the cached model."""
