"""What objectives share: their base class, and helpers that are no objectives themselves."""
