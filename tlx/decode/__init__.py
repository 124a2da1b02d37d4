"""From a model to text: choice of the next token, and the loop around the cached model."""
