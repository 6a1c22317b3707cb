"""Pure decisions: no I/O, no clock, no logging, no driver. Everything here can be tested with a table."""
