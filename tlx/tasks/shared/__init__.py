"""Shared parts of tasks: their base class, and helpers that are no tasks themselves."""
