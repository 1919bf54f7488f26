"""Worked studies: programs that use the library from outside."""
