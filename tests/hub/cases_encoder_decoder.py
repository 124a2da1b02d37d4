"""Encoder-decoders."""

CASES = {}
