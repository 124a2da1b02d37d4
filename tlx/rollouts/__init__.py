"""Floor 7: training on sampled answers, the formulas of each method."""
