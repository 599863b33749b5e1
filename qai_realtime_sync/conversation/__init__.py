"""What makes a conversation of events: responses, tools, playback, turns, recording; told of events, they answer with commands."""
