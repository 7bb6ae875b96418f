"""Measures this project beside its peers: speed, accuracy, load, memory. Not installed."""
