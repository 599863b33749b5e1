"""Ours beside the peers: CPU, latency, memory, measured in one run against one server that is nobody's."""
