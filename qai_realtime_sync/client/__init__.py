"""One live conversation: threads, handlers, state; joins dialects, transport, REST and conversation, which do not know each other."""
