"""Hugging Face directories in and out, driven by the families' tables."""
