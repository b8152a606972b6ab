"""The HTTP server: connections, TLS, logins, paths, WebSockets and the console page."""
