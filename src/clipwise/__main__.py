"""``python -m clipwise`` is the ``clipwise`` command."""

import sys

from clipwise.cli import main

if __name__ == "__main__":
    sys.exit(main())
