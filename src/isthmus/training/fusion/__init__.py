"""Cross-modal layers over the states of two frozen encoders: answers, matching, contrast and masked words."""
