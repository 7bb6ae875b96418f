"""Speed and accuracy on labelled pages, ours beside the peers', image by image in turn."""
