"""The policy: what opens an episode, what may be done about it, by which channel, and at what cost."""
