"""A gateway under load for minutes or an hour, while its surroundings fail: afterwards it is as it was."""
