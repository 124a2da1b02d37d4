"""Prepared corpora: text as sealed shards of tokens in a folder or a bucket, and a small index over them."""
