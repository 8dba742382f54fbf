"""A small corpus and tokenizer that `make smoke` makes itself, so that nothing is downloaded."""
