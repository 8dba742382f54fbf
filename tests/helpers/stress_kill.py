"""kill -9 a data job many times over a corpus of one's own, and compare the result with an undisturbed run's.

    python -m tests.helpers.stress_kill --kills 100 -- --input 'corpus/*' --tokenizer-type ... --guard heuristic

What stands behind -- is the command line of `srp preprocess`, without --output-prefix.
A test of the project, not a tool for its users: it is here for what `make test` has no time for.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers.killing import kill_and_resume


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("job", nargs="+", metavar="FLAG", help="of the data job, behind --")
    args = parser.parse_args(argv)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            seen = kill_and_resume(args.job, Path(folder), args.kills, args.seed)
        except AssertionError as error:
            print(f"FAILED, seed {args.seed}: {error}")
            return 1
    for name, times in sorted(seen.items()):
        print(f"{times:5}  {name}")
    print(f"every result the same, byte for byte; {time.monotonic() - started:.0f} s, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
