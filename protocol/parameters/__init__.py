"""The parameters of VAPIX: the tree of settings, its declarations, and each way in or out of it."""
