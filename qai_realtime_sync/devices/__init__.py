"""Microphone and loudspeaker of this computer, or files and pipes in their place.

    with Speaker() as speaker, Microphone() as microphone:
        client.play_to(speaker)
        with client:
            microphone.send_to(client.send_audio)
            client.wait()

Both take ``device=`` (a part of the device's name), or ``file=`` (a WAV file), or ``pipe=`` (raw sound). Devices need miniaudio
(``pip install 'qai-realtime-sync[devices]'``); files and pipes need nothing.
"""

from qai_realtime_sync.devices.engine import Device, list_devices
from qai_realtime_sync.devices.microphone import Microphone
from qai_realtime_sync.devices.speaker import Speaker

__all__ = ["Device", "Microphone", "Speaker", "list_devices"]
