"""Small classifiers that are trained from a store's verdicts: their features, files and training."""
