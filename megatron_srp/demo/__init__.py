"""A small corpus and tokenizer that the demo makes itself, so that nothing is downloaded."""
