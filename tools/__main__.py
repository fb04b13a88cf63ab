"""``python -m xenpv_tools`` is the command ``xenpv``."""

import sys

from .cli import main

sys.exit(main())
