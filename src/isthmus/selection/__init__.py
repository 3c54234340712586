"""Which encoders belong together: scores of encoder pairs before anything is trained (`isthmus.select`)."""
