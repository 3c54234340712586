"""A projector and managers between an image encoder and a language model, trained on answers alone."""
