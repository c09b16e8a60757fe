"""What crosses the fork: each slot's shared memory, its start permissions, and the channel that is its lifeline."""
