# A worker: `docker build -t task-orchestrator .`; docs/containers.md says how an app of yours gets into it.
FROM python:3.13-slim

# Never root: a task can do what this user can. Tasks' code and the working directory are /app, which it may only read.
RUN useradd --uid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin orchestrator && mkdir /app

# What is here is what .dockerignore lets through. No compiler is needed: the dependencies are wheels.
COPY . /src
RUN pip install --no-cache-dir --disable-pip-version-check /src && rm -rf /src

USER orchestrator
WORKDIR /app
EXPOSE 9090

# A drain: what waits for it must wait for longer than SHUTDOWN_TIMEOUT (stop_grace_period, docker stop --time).
STOPSIGNAL SIGTERM

# Whether the supervisor turns. Not /health: a worker whose database is away needs no restart.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"METRICS_PORT\") or 9090}/livez', timeout=4)"]

# In exec form: it is process 1 itself, hears the signals, and reaps what tasks leave behind.
ENTRYPOINT ["orchestratord"]
CMD ["start"]
