"""NAF on its own device: network and loss, trainer, replay mirror, publisher, checkpoints, main loop."""
