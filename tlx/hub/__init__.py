"""Import and export of Hugging Face directories, driven by the key tables of the model families."""
