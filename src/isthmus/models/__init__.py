"""Models: the dual encoder, pretrained ones, the model card, and what a model cost."""
