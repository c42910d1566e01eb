"""The command line: one module a command, output, exit codes."""
