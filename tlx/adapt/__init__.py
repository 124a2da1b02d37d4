"""Adaptation of a base model: which parameters are taken over, trained and saved."""
