"""Floor 2: the parts of a block, each a Linen module or a pure function chosen by its config."""
