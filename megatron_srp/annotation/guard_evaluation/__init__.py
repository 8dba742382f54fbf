"""How good a guard is, on labelled texts."""
