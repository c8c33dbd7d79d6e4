"""``python -m eventbus_sync``."""

import sys

from eventbus_sync.cli import main


if __name__ == "__main__":
    sys.exit(main())
