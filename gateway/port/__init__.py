"""One port: the bus that its device and its clients meet on, the rights to use it, and the plan of what it runs."""
