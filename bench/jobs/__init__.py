"""Queues of jobs: instar beside procrastinate, pgqueuer, huey and Celery, and the loop that none can be faster than."""
