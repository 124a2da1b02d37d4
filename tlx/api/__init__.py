"""A trained model as an object: how it is loaded, and what it can do."""
