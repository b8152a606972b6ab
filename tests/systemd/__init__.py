"""The service under a real systemd, in a container whose file system is thrown away."""
