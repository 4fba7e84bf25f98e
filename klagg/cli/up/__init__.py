"""`klagg up`: every process with its own servers at one terminal."""
