"""The command line: one module a command, the only part of the shared package that may import services."""
