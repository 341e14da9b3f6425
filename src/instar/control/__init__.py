"""The control API over a UNIX socket: server, client, and what they show."""
