"""Other queues that can be had from PyPI, each in programs of its own and at its best setting, on the same server.

rival.py                    what a rival is, and how one empties a queue
redis.py                    the server that one of them needs
stamps.py                   what all of their handlers do: say when they ran
on_*.py                     the programs, the only places that import a rival
"""
