"""Figures about models: n-gram baselines, likelihood over a split of the data."""
