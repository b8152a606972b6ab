"""The requests and answers of VAPIX, and HTTP authentication."""
