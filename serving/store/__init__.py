"""The models on disk, and how they get there."""

from serving.store.files import ModelFiles
from serving.store.progress import Lines, Progress, Quiet, Terminal, progress_on
from serving.store.store import Store

__all__ = ["Lines", "ModelFiles", "Progress", "Quiet", "Store", "Terminal", "progress_on"]
