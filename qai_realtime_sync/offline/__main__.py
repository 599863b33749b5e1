"""``python -m qai_realtime_sync.offline``: the local server."""

from __future__ import annotations

import sys

from qai_realtime_sync.offline.serving import main

if __name__ == "__main__":
    sys.exit(main())
