"""A stream as a service: lines of a pipe in, lines out, kept in a file."""
