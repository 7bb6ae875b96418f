"""Images: bytes to upright BGR pages and back, resizing, crops, drawing.

Nothing is imported here: decoder processes (`sandbox/worker.py`) load this package and must stay
free of OpenCV and of every inference backend.
"""
