"""Text: input files read in batches of flat arrays, cut into segments."""
