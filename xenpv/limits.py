"""What the kernel grants a process."""

from __future__ import annotations

import resource


def raise_file_limit() -> None:
    """As many descriptors as this process may have.

    The usual limit of 1,024 is kept low for programs that use select(2), which cannot wait for a larger one (systemd.exec(5),
    LimitNOFILE=). Ours do not.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
