"""Shared parts of objectives: their base class, and helpers that are no objectives themselves."""
