"""``python -m gateway``, for where the console script is not on the path."""

from gateway.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
