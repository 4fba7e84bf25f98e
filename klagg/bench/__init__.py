"""`klagg bench`: what klagg does in a second, measured on this machine."""
