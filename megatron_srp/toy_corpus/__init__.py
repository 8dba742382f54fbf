"""A small corpus and tokenizer, generated so that `make smoke` downloads nothing."""
