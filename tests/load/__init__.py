"""A load client that accounts for every request: who asked, on which connection, when, and which generation answered.

Run it as `python -m load SPEC.json` with `tests/` on the path; it runs in a process of its own, so that the
interpreter lock of a test does not disturb it.

**A failed request** is one with no complete valid response although it was sent on a connection that the
server had not announced to close. Not failures, but counted:

- `resent`: a pipelined request behind `Connection: close` (RFC 9112 section 9.3.2) or an HTTP/2 stream above
  the last id of a GOAWAY (RFC 9113 section 6.8); both are the client's to send again, nothing happened;
- `closed_idle`: the client looked before it sent, and found that the server had closed the idle connection
  without a word. A client that does not look, or looks a moment too early, would have lost a request, so a
  restart may not cause any while clients stay idle for less than the server's keep-alive time;
- `expired`: the same, after the keep-alive time: the server is within its rights.
"""

from __future__ import annotations
