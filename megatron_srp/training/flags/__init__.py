"""From the command line to Megatron's flags, without torch."""
