"""A server with OpenAI's interface: bodies in, batches of rows through the decoder, answers out (README.md)."""
