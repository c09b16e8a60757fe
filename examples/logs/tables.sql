-- What the access logs add up to. Can be run again and again.

CREATE TABLE IF NOT EXISTS log_files (
    name text PRIMARY KEY,
    lines integer NOT NULL,
    malformed integer NOT NULL,
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE log_files IS 'The files that are counted: a file that has its row is in log_hits, and exactly once';

CREATE TABLE IF NOT EXISTS log_hits (
    hour timestamptz NOT NULL,
    path text NOT NULL,
    status smallint NOT NULL,
    hits bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (hour, path, status)
);
COMMENT ON TABLE log_hits IS 'Requests and bytes sent per hour (UTC), path (numbers are :id) and status';
