"""Mules of apps.uwsgi_app."""
