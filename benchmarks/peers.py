"""The race against other libraries: ``python -m benchmarks.peers`` is ``cnnkit bench``."""

import sys

if __name__ == "__main__":
    from cnnkit.cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
