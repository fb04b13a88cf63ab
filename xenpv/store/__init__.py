"""xenstore, as a domain sees it: the one room that pyxs is used in.

    client.py       XenStore: the verbs; transactions, retried
    router.py       one thread and one connection for all; loss and reconnect
    rvar.py         what a request waits on
    watch.py        the bounded queue of a watch
    connection.py   messages on a transport; imports pyxs, alone
    xenbus.py       the transport of a guest: /dev/xen/xenbus
    rules.py        paths, permissions, answers and errors, checked once

What pyxs 0.4.1 gives is kept where it is sound: operations, header, connection and their names. Its router and client
are replaced: a lost connection or an odd answer leaves their callers waiting for ever, nothing has a time limit, values
must be 7-bit text, transactions are the client's state, and a client that lost its connection stays lost.
"""

from .client import StoreTransaction, XenStore
from .watch import StoreWatch

__all__ = ["StoreTransaction", "StoreWatch", "XenStore"]
