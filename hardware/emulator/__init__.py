"""Servos that are not there: real bytes on a pseudo-terminal, full register files, motors that heat, sag and stall."""
