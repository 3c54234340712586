"""Training of recognisers of speech, stage after stage, over states of frozen encoders."""
