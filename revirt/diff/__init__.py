"""Where two recordings part, and what is different then.

events      the first of what reached the guests, and of what they sent, that is not the same
comparison  that, and the two machines at a branch that both came to
"""

from revirt.diff.comparison import Comparison, diff
from revirt.diff.events import Parting, Seen

__all__ = ["Comparison", "Parting", "Seen", "diff"]
