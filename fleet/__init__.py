"""What every process of a fleet shares: messages, codec, sockets, config, supervisor, CLI."""
