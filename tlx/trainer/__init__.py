"""The trainer as a library: from a config to a trained model, resumed, with progress and summary."""
