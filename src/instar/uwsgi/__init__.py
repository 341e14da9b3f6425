"""Everything that a site which runs uWSGI today needs to run instar instead: its files, commands and protocols."""
