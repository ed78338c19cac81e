"""A debugger for recordings, on a full screen or line by line.

session       timeline, symbols, breakpoints, history: what one has at hand
expressions   addresses as people write them
code          instructions in words
trail         what was executed on the way here, and what will be
conditions    what is searched for, in words
commands      what a command is, and the table of them
moving        commands that go somewhere, and breakpoints
looking       commands that show something
noting        commands for bookmarks
table         all of them
plain         line by line
screen        the full screen
"""

from revirt.debugger.session import Session
from revirt.debugger.table import TABLE, QuitError

__all__ = ["TABLE", "QuitError", "Session"]
