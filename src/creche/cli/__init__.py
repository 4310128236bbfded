"""The command line: it composes the rooms below and decides nothing itself.

Commands are loaded when they are called, so that `creche --help` starts fast. Data goes to stdout
and everything else to stderr; what an exit code means is in `creche.cli.exits`.
"""
