"""Floor 8: what a run would need and how fast it would be on hardware that is not here."""
