"""Floor 6: the state of a run, the step that advances it, and the loop around the step."""
