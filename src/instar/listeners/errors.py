"""Why an address can't be served, in words that say what to do."""

from __future__ import annotations

import errno
import os

from instar.errors import InstarError


class ListenError(InstarError):
    """A bind address can't be served."""


_ADVICE = {
    errno.EADDRINUSE: "the address is in use; stop the process that listens there (see `ss -ltnp`), or choose another",
    errno.EADDRNOTAVAIL: "no network interface has that address; use one that `ip address` lists, or 0.0.0.0",
    errno.EAFNOSUPPORT: "this system has no IPv6; use an IPv4 address such as 0.0.0.0",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n`) or lower web.max_workers",
}


def listen_error(address: str, error: OSError) -> ListenError:
    """What to raise for an OSError of socket, bind or listen."""
    if error.errno == errno.EACCES:
        why = "permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE: choose a higher one, or grant it"
    elif error.errno == errno.EADDRINUSE and address.startswith("[::]"):
        why = f"{_ADVICE[errno.EADDRINUSE]} ([::] covers IPv4 as well, so 0.0.0.0 with the same port is one too many)"
    else:
        why = _ADVICE.get(error.errno or 0) or error.strerror or os.strerror(error.errno or 0)
    return ListenError(f"cannot listen on {address}: {why}")
