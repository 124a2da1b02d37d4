"""What tasks share: their base class, and helpers that are no tasks themselves."""
