"""A realtime voice service on this computer: it hears, thinks by a script, speaks, and behaves like the services on the wire.

    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer() as server:
        print(server.ws_url)

Raises on import: `ConfigError` without werkzeug and simple-websocket (``pip install 'qai-realtime-sync[serve]'``).
"""

from __future__ import annotations

from qai_realtime_sync.offline.script import Script
from qai_realtime_sync.offline.server import RealtimeServer
from qai_realtime_sync.offline.serving import serve
from qai_realtime_sync.offline.voice import caller_voice

__all__ = ["RealtimeServer", "Script", "caller_voice", "serve"]
