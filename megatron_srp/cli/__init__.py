"""The `srp` command: a file for each subcommand, and nothing else of the package imports them."""
