"""dom0's time page (docs/time-page.md): who publishes it, who reads it, and whether it is well.

`Publisher` runs in dom0. `open_reader` gives a domain its `Reader`. `observe` and `judge` are what ``xenpv time doctor``
is made of.
"""

from .clock import OwnClock
from .current import CurrentPage
from .health import Finding, Level, Observation, against_kernel, judge, observe, trouble
from .kernel import Kernel
from .page import own_clock_is_cheap
from .publisher import Publisher
from .reader import Epoch, Reader, Reading
from .subscription import find_page, open_reader, place_of, subscribe

__all__ = ["CurrentPage", "Epoch", "Finding", "Kernel", "Level", "Observation", "OwnClock", "Publisher", "Reader", "Reading",
           "against_kernel", "find_page", "judge", "observe", "open_reader", "own_clock_is_cheap", "place_of", "subscribe",
           "trouble"]
