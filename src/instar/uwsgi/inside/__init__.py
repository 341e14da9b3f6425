"""What `instar uwsgi` puts into the application's own processes: the `uwsgi` module, mules, the application's loader.

Standard library only.
"""
