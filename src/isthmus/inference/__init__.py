"""A model at work on files: labels with probabilities, and embeddings."""
