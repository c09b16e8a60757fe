"""`make bench`: how fast Task Orchestrator is here, beside what PostgreSQL alone can do in the same run.

    __main__.py    the command: which measurements, how often
    drain.py       a queue that is emptied, beside pgbench doing the same statements
    latency.py     from enqueue to the first line of the handler, beside two commits and a wake-up alone
    enqueue.py     tasks going in, one by one and in bulk, beside a bare INSERT and COPY
    handlers.py    handlers that compute or sleep, beside what the cores and the pool could do at most
    idle.py        a pool with nothing to do
    machinery      app.py (the handlers), worker.py (the daemon), server.py (PostgreSQL), pgbench.py, cpu.py,
                   figures.py, report.py

Only ratios within one run say anything: the machine, its disk and its neighbours are part of every absolute figure.
"""
