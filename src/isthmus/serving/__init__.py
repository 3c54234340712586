"""A page and an HTTP API over models and an index of pictures."""
