"""Takes messages of its farm in a thread, under a lock; a message to the farm ends the thread, as in Galaxy."""

import signal
import threading

import uwsgi

from apps.uwsgi_app import note

END = b"__END__"
leave = threading.Event()


def dispatch():
    while True:
        uwsgi.lock(0)
        try:
            message = uwsgi.farm_get_msg()
            if message == END:
                note("told to end")
                return
            note(f"got {message}")
        finally:
            uwsgi.unlock(0)


def on_signal(number, frame):
    uwsgi.farm_msg("jobs", END)
    leave.set()


signal.signal(signal.SIGHUP, on_signal)
thread = threading.Thread(target=dispatch)
thread.start()
note("dispatches")
while not leave.wait(20):
    pass
thread.join()
note("done")
