"""Two projectors and the loss between them: what makes a dual encoder of two frozen encoders."""
