"""`python -m megatron_srp NAME ...`, the same as `srp NAME ...`.

In a rank of `srp train --async-save` the process that writes checkpoints imports this file again:
nothing may happen outside the guard, and nothing heavy may be imported.
"""

from megatron_srp.cli import main

if __name__ == "__main__":
    main()
