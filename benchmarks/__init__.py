"""`make bench`: how fast Task Orchestrator is here, beside what PostgreSQL alone and others can do in the same run.

    __main__.py    the command: which measurements, how often
    drain.py       a queue that is emptied, beside bare.py and pgbench doing the same with nothing around it
    rivals/        other queues from PyPI, beside ours
    costs.py       what a no-op costs the server in statements, buffers and WAL
    enqueue.py     tasks going in, one by one and in bulk, beside a bare INSERT and COPY
    latency.py     from enqueue to the first line of the handler, beside two commits and a wake-up alone
    handlers.py    handlers that compute or sleep, beside what the cores and the pool could do at most
    mix.py         slow tasks among no-ops
    burst.py       slower tasks right after no-ops
    backlog.py     long queues, many scheduled tasks, a snapshot that is held
    idle.py        a pool with nothing to do
    report.py      the table and the file; `python -m benchmarks.report FILE` prints the table of an earlier run
    plot.py        `python -m benchmarks.plot FILE` draws it
    machinery      app.py (the handlers), worker.py (the daemon), server.py (PostgreSQL), queue.py, bare.py, pgbench.py,
                   cpu.py, processes.py, figures.py, progress.py

Only ratios within one run say anything: the machine, its disk and its neighbours are part of every absolute figure.
docs/performance.md has the method and the figures.
"""
