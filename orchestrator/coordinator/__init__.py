"""The supervisor's two database threads: `pulse` (heartbeat, lease, LISTEN) and `coordinator` (orders and duties).

Both run in the supervisor's process, each with one connection of its own, and talk to the supervisor's loop through
mailboxes only. Neither may ever hang it, end it, or run a line of the user's code.
"""
