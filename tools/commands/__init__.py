"""One file a verb; each has `command`. cli.py imports a file when its verb is asked for."""
