"""The front door: HTTP, TLS, logins, WebSockets and the console page."""
