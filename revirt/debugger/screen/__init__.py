"""The debugger on a full screen, with Textual.

view        what the panes show of one moment, as plain data
panes       how each of them draws that
keys        what each key does
prompt      the command line
app         all together; commands run on a thread of their own
screenshot  the screen as a picture
"""

from revirt.debugger.screen.app import run_screen
from revirt.debugger.screen.screenshot import take_screenshot

__all__ = ["run_screen", "take_screenshot"]
