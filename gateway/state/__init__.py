"""The state that outlives the process: the parameters, the users and the node id, in files that are always whole."""
