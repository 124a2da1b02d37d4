"""Floor 3: whole models from the parts of nn/."""
