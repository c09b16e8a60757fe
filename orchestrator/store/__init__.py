"""The database: all the SQL there is, one function per statement, and the only package that imports psycopg2.

`Connection` (connection.py) runs statements with a deadline of the client's own. The functions beside it are grouped by
who calls them: claims.py (owners of tasks), workers.py and leadership.py (the pulse), upkeep.py (duties), tasks.py and
statistics.py (people who look), enqueue.py (whoever adds tasks, on a connection of theirs), schema.py (start, migrate).
"""
