"""One file per resource: plain synchronous functions that touch one store each and report what they saw."""
