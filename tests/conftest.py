"""For all tests."""

import signal

# Started in the background of a shell, a process ignores Ctrl-C, and so do all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
