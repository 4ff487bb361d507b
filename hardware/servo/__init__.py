"""Serial servos: codecs without I/O, register tables as data, and the bus that owns a port."""
