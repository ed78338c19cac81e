"""The command line: arguments in, rows and exit statuses out.  It does nothing that the API cannot."""

from revirt.cli.app import main

__all__ = ["main"]
