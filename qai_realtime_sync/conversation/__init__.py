"""What makes a conversation of a stream of events: responses, tools, playback, turns, recording; each is told of events and answers with commands."""
