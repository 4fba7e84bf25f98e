"""The command line: the one layer that may import services."""
