"""`torchrun ... -m megatron_srp.run SCRIPT ARGS`: a Megatron script, unchanged, on data with reflections."""

from megatron_srp.training.host.run import main

if __name__ == "__main__":
    main()
