"""Images: bytes to upright BGR pages and back, resizing, crops, drawing.

Nothing is imported here: the decoding helpers (`helper.py`) load this package and must
stay free of OpenCV and of every inference backend.
"""
