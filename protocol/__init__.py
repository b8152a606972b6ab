"""The sans-IO half of Daisyport: formats, rules and state machines without tasks, clocks or sockets."""
