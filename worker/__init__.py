"""Recall: notices customers drifting away and decides what touch is worth its cost."""
