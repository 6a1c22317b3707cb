"""Measurements. Each is a module of its own and prints its figures with what they were measured on."""
