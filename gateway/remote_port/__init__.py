"""The line of another CPU: the client that reaches it, and the server that shares it."""
