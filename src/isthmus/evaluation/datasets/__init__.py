"""Public data sets for evaluation, in the layouts their authors publish."""
