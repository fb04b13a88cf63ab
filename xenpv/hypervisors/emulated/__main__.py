"""The host process in the background: ``python -m xenpv.hypervisors.emulated RUN FD``; host.start runs it."""

import sys

from .host import serve_in_background

sys.exit(serve_in_background(sys.argv[1], int(sys.argv[2])))
