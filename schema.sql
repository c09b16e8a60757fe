-- Task Orchestrator: the whole schema, for PostgreSQL 14 and newer.
--
-- Can be run again at any time (`orchestratord migrate`, `orchestratord start`, or `psql -1 -f schema.sql`): it creates
-- what is missing, in the schema where its tables are or else the first of the search_path, and changes nothing else. It
-- refuses to touch a newer schema.
-- Version 4. The same number stands in orchestrator/store/schema.py.

-- The functions that are made below keep this search_path: one with "$user" in it would be another for each role.
DO $$
DECLARE
    home name := coalesce((SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                           WHERE c.oid = to_regclass('orchestrator_schema')), current_schema());
BEGIN
    PERFORM set_config('search_path', quote_ident(home), true) WHERE home IS NOT NULL;
    IF to_regclass('orchestrator_schema') IS NOT NULL THEN
        IF EXISTS (SELECT FROM orchestrator_schema WHERE version > 4) THEN
            RAISE EXCEPTION 'this database has a newer Task Orchestrator schema than version 4';
        END IF;
    END IF;
    IF to_regtype('task_status') IS NULL THEN
        CREATE TYPE task_status AS ENUM ('pending', 'claimed', 'running', 'completed', 'failed', 'dead_letter');
    END IF;
END
$$;

COMMENT ON TYPE task_status IS
    'pending: waits or is due; claimed: taken by a child, not seen running yet; running: its handler runs; '
    'completed: done; failed: can never run or was given up; dead_letter: its attempts are used up';

-- Ids: the form of UUIDv7 (48 bits of milliseconds, 12 bits of their fraction, 62 random bits), so that new rows lie
-- together in the primary key and everything added in a span of time is one range of it.

CREATE OR REPLACE FUNCTION orchestrator_new_id() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 4096000)::bigint), 15, '0')
                    PLACING '7' FROM 13 FOR 0)
            || substr(gen_random_uuid()::text, 20))::uuid
$$;
COMMENT ON FUNCTION orchestrator_new_id() IS 'A new time-ordered id (UUIDv7), also where the server has no uuidv7()';

CREATE OR REPLACE FUNCTION orchestrator_id_at(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT (overlay(lpad(to_hex((date_part('epoch', moment) * 4096000)::bigint), 15, '0') PLACING '7' FROM 13 FOR 0)
            || '8000000000000000')::uuid
$$;
COMMENT ON FUNCTION orchestrator_id_at(timestamptz) IS
    'The lowest id that orchestrator_new_id() can make at that moment';

CREATE OR REPLACE FUNCTION retry_delay(retry integer, base_seconds double precision, cap_seconds double precision)
RETURNS double precision LANGUAGE sql VOLATILE AS $$
    SELECT random() * least(cap_seconds, base_seconds * 2.0::double precision ^ (least(greatest(retry, 1), 63) - 1))
$$;
COMMENT ON FUNCTION retry_delay(integer, double precision, double precision) IS
    'Seconds to wait before retry number `retry`: exponential with full jitter, as RetryPolicy does it';

-- Never reset and never reused: a claim token fences every write by the claim's owner. What is drawn here is the upper part
-- of the tokens of one child (store/tokens.py), a million times as much. CACHE spares the lock.
CREATE SEQUENCE IF NOT EXISTS claim_tokens AS bigint CACHE 100;
COMMENT ON SEQUENCE claim_tokens IS
    'Epochs of claim tokens: a child draws one (never reused) and numbers its claims within it';

CREATE TABLE IF NOT EXISTS tasks (
    id uuid PRIMARY KEY DEFAULT orchestrator_new_id(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    claimed_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    next_retry_at timestamptz,
    claim_token bigint,
    ended_token bigint,
    timeout_seconds double precision CHECK (timeout_seconds > 0 AND timeout_seconds <= 31622400),
    status task_status NOT NULL DEFAULT 'pending',
    priority integer NOT NULL DEFAULT 0,
    -- One row by raw SQL with a number that cannot be counted on would stop every claim, or every recovery.
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 1073741823),
    max_retries integer CHECK (max_retries >= 0),
    recoveries integer NOT NULL DEFAULT 0 CHECK (recoveries BETWEEN 0 AND 1073741823),
    slot integer,
    type text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 200),
    worker_id text,
    idempotency_key text CHECK (octet_length(idempotency_key) BETWEEN 1 AND 1000),
    -- A larger payload than this might not fit into a reply, and one such row would stop every claim.
    payload jsonb NOT NULL DEFAULT '{}' CHECK (pg_column_size(payload) <= 134217728),
    last_error text,
    result jsonb
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000);

COMMENT ON TABLE tasks IS 'The queue: one row per task, kept after its end';
COMMENT ON COLUMN tasks.id IS 'Made by the database, ordered by time';
COMMENT ON COLUMN tasks.created_at IS 'When it was enqueued; the older of two tasks of equal priority is claimed first';
COMMENT ON COLUMN tasks.updated_at IS 'Last change of the row by the orchestrator or by a retry';
COMMENT ON COLUMN tasks.claimed_at IS 'When a child took it; NULL while pending';
COMMENT ON COLUMN tasks.started_at IS 'When the latest execution began; NULL while pending';
COMMENT ON COLUMN tasks.completed_at IS 'When it reached completed, failed or dead_letter';
COMMENT ON COLUMN tasks.next_retry_at IS 'Pending: not before this time, NULL: due now. NULL in every other status';
COMMENT ON COLUMN tasks.claim_token IS 'The claim that owns the task, or that ended it; NULL while pending';
COMMENT ON COLUMN tasks.ended_token IS
    'The last claim whose outcome was accepted (negative: its worker wrote it for the child): tells repeated from stale';
COMMENT ON COLUMN tasks.timeout_seconds IS 'Time limit of one execution; NULL: what the handler is registered with';
COMMENT ON COLUMN tasks.status IS 'See the type task_status';
COMMENT ON COLUMN tasks.priority IS 'Higher is claimed first';
COMMENT ON COLUMN tasks.attempts IS 'Executions that started and were not handed back';
COMMENT ON COLUMN tasks.max_retries IS 'Retries after the first attempt; NULL: what the handler is registered with';
COMMENT ON COLUMN tasks.recoveries IS
    'Times it was taken back from a dead worker before it was seen running; any: it is claimed alone';
COMMENT ON COLUMN tasks.slot IS 'The slot of its worker whose child claimed it; NULL while pending';
COMMENT ON COLUMN tasks.type IS 'Names the handler';
COMMENT ON COLUMN tasks.worker_id IS
    'The worker that claimed it last; NULL while pending. No foreign key: orphans are looked for';
COMMENT ON COLUMN tasks.idempotency_key IS 'At most one task per type and key';
COMMENT ON COLUMN tasks.payload IS 'A JSON object: the handler''s keyword arguments';
COMMENT ON COLUMN tasks.last_error IS 'Why the latest failed execution failed';
COMMENT ON COLUMN tasks.result IS 'What the handler returned';

-- What a CREATE INDEX CONCURRENTLY by hand has left when it failed serves no query, and would be taken for ours below.
DO $$
DECLARE
    broken regclass;
BEGIN
    FOR broken IN
        SELECT indexrelid::regclass FROM pg_index
        WHERE NOT indisvalid AND indexrelid IN (
            to_regclass('idx_tasks_claimable'), to_regclass('idx_tasks_waiting'), to_regclass('idx_tasks_owned'),
            to_regclass('idx_tasks_idempotency'), to_regclass('idx_tasks_dead_letter'))
    LOOP
        EXECUTE format('DROP INDEX %s', broken);
    END LOOP;
END
$$;

-- claims.finish_and_claim: the next due task. Those that wait for their time lie apart, in front of the due ones, so they
-- cost a claim nothing; and the guide's count of pending tasks by type finds both here. (An index for that query alone
-- would cost each insert 8 %; this one costs what one without the waiting tasks would.)
DO $$
BEGIN
    IF (SELECT pg_get_expr(indpred, indrelid) LIKE '%next_retry_at%' FROM pg_index
        WHERE indexrelid = to_regclass('idx_tasks_claimable')) THEN
        DROP INDEX idx_tasks_claimable;  -- before version 3
    END IF;
END
$$;
CREATE INDEX IF NOT EXISTS idx_tasks_claimable ON tasks ((next_retry_at IS NULL), priority DESC, created_at)
    WHERE status = 'pending';
COMMENT ON INDEX idx_tasks_claimable IS 'The claim: due tasks in their order; the guide''s pending tasks by type';
-- upkeep.promote_due: what has become due, and when the next one will.
CREATE INDEX IF NOT EXISTS idx_tasks_waiting ON tasks (next_retry_at)
    WHERE status = 'pending' AND next_retry_at IS NOT NULL;
COMMENT ON INDEX idx_tasks_waiting IS 'Promotion: scheduled and backing-off tasks by their time';
-- holdings.owned, upkeep.recover, the guide's orphan and running queries.
CREATE INDEX IF NOT EXISTS idx_tasks_owned ON tasks (worker_id) WHERE status IN ('claimed', 'running');
COMMENT ON INDEX idx_tasks_owned IS 'What a worker owns; recovery; what runs';
-- enqueue: at most one task per type and key.
CREATE UNIQUE INDEX IF NOT EXISTS idx_tasks_idempotency ON tasks (type, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
COMMENT ON INDEX idx_tasks_idempotency IS 'Enqueue: idempotency keys';
-- tasks.list_tasks and the guide's dead-letter query.
CREATE INDEX IF NOT EXISTS idx_tasks_dead_letter ON tasks (updated_at DESC) WHERE status = 'dead_letter';
COMMENT ON INDEX idx_tasks_dead_letter IS 'Dead letters, the latest first';

CREATE TABLE IF NOT EXISTS task_types (
    type text PRIMARY KEY,
    max_retries integer NOT NULL DEFAULT 3 CHECK (max_retries >= 0),
    timeout_seconds double precision CHECK (timeout_seconds > 0),
    retry_base_seconds double precision NOT NULL DEFAULT 1 CHECK (retry_base_seconds BETWEEN 0 AND 31622400),
    retry_cap_seconds double precision NOT NULL DEFAULT 3600 CHECK (retry_cap_seconds BETWEEN 0 AND 31622400),
    last_seen timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE task_types IS 'What the apps of the workers serve, as the newest start registered it';
COMMENT ON COLUMN task_types.type IS 'Names the handler';
COMMENT ON COLUMN task_types.max_retries IS 'For tasks that were enqueued without a number of their own';
COMMENT ON COLUMN task_types.timeout_seconds IS 'Likewise; NULL: no limit';
COMMENT ON COLUMN task_types.retry_base_seconds IS 'Longest wait before the first retry';
COMMENT ON COLUMN task_types.retry_cap_seconds IS 'Longest wait before any retry';
COMMENT ON COLUMN task_types.last_seen IS 'When a worker that serves it started last';

-- Since version 4.
CREATE TABLE IF NOT EXISTS periodic_tasks (
    name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 200),
    app text NOT NULL,
    type text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 200),
    cron text NOT NULL,
    timezone text NOT NULL DEFAULT 'UTC',
    payload jsonb NOT NULL DEFAULT '{}',
    priority integer NOT NULL DEFAULT 0,
    max_retries integer CHECK (max_retries >= 0),
    timeout_seconds double precision CHECK (timeout_seconds > 0 AND timeout_seconds <= 31622400),
    due_as text,
    -- Python has no infinity, nor each time zone's first hours of the year 1.
    last_due_at timestamptz NOT NULL DEFAULT clock_timestamp()
        CHECK (last_due_at BETWEEN '1970-01-01Z' AND '9999-01-01Z')
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
COMMENT ON TABLE periodic_tasks IS
    'What the leader enqueues at regular times, as the newest start or reload of an app with it registered it';
COMMENT ON COLUMN periodic_tasks.name IS 'Its own; the type unless the app says otherwise';
COMMENT ON COLUMN periodic_tasks.app IS 'The app (module:attribute) that registered it: without it there, the row goes';
COMMENT ON COLUMN periodic_tasks.type IS 'Of the tasks that are enqueued; like the next columns';
COMMENT ON COLUMN periodic_tasks.cron IS 'When it is due: minute, hour, day, month, weekday, or six fields from the second on';
COMMENT ON COLUMN periodic_tasks.timezone IS 'In which that is read, such as Europe/Berlin';
COMMENT ON COLUMN periodic_tasks.payload IS 'The handler''s keyword arguments';
COMMENT ON COLUMN periodic_tasks.priority IS 'Higher is claimed first';
COMMENT ON COLUMN periodic_tasks.max_retries IS 'Retries after the first attempt; NULL: what the handler is registered with';
COMMENT ON COLUMN periodic_tasks.timeout_seconds IS 'Time limit of one execution; NULL: what the handler is registered with';
COMMENT ON COLUMN periodic_tasks.due_as IS 'The key of the payload that tells the moment it was due; NULL: none does';
COMMENT ON COLUMN periodic_tasks.last_due_at IS
    'Up to here everything is enqueued, or was due before there was such a row';

-- Since version 3. NOT VALID: rows that are there already are not looked at, which would take long.
DO $$
DECLARE
    new record;
BEGIN
    FOR new IN
        SELECT * FROM (VALUES
            ('tasks', 'attempts', 'BETWEEN 0 AND 1073741823'), ('tasks', 'recoveries', 'BETWEEN 0 AND 1073741823'),
            ('task_types', 'retry_base_seconds', 'BETWEEN 0 AND 31622400'),
            ('task_types', 'retry_cap_seconds', 'BETWEEN 0 AND 31622400')) AS c (relation, column_name, condition)
        WHERE NOT EXISTS (SELECT FROM pg_constraint AS p WHERE p.conrelid = to_regclass(c.relation)
                          AND p.conname = format('%s_%s_check', c.relation, c.column_name))
    LOOP
        EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I CHECK (%I %s) NOT VALID', new.relation,
                       format('%s_%s_check', new.relation, new.column_name), new.column_name, new.condition);
    END LOOP;
END
$$;

-- Since version 3, and for rows written since: rows of more than 2 KB are compressed, which by PostgreSQL's own method
-- takes three times as long (10 KB of JSON: 0.1 ms). Not every server is built with lz4; what somebody has chosen stays.
DO $$
DECLARE
    large name;
BEGIN
    FOR large IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = to_regclass('tasks') AND attname IN ('payload', 'result') AND attcompression = ''
          AND EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals))
    LOOP
        EXECUTE format('ALTER TABLE tasks ALTER COLUMN %I SET COMPRESSION lz4', large);
    END LOOP;
END
$$;

CREATE TABLE IF NOT EXISTS workers (
    id text PRIMARY KEY,
    hostname text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_heartbeat timestamptz NOT NULL DEFAULT clock_timestamp(),
    leader_until timestamptz,
    declared_dead_at timestamptz,
    resumed_at timestamptz,
    pool_size integer NOT NULL,
    is_leader boolean NOT NULL DEFAULT false,
    version text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
ALTER TABLE workers ADD COLUMN IF NOT EXISTS resumed_at timestamptz;  -- since version 2
COMMENT ON TABLE workers IS
    'Running orchestratords; a row goes when its worker leaves, or when it died and all was recovered';
COMMENT ON COLUMN workers.id IS 'hostname-pid-random; new at every start';
COMMENT ON COLUMN workers.hostname IS 'Where it runs';
COMMENT ON COLUMN workers.started_at IS 'When it registered';
COMMENT ON COLUMN workers.last_heartbeat IS 'Its latest heartbeat';
COMMENT ON COLUMN workers.leader_until IS 'End of its lease as last renewed; NULL if it does not lead';
COMMENT ON COLUMN workers.declared_dead_at IS 'Set once and for good by a leader; its tasks are recovered from then on';
COMMENT ON COLUMN workers.resumed_at IS
    'Its first heartbeat after one or more were missed: what kept it from beating may have kept others too';
COMMENT ON COLUMN workers.pool_size IS 'Slots of its pool';
COMMENT ON COLUMN workers.is_leader IS 'For people to see; the row in leadership decides';
COMMENT ON COLUMN workers.version IS 'Its version of orchestratord';

-- An ordinary logged table: an unlogged one would forget its term in a crash, and terms must only grow.
CREATE TABLE IF NOT EXISTS leadership (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    term bigint NOT NULL DEFAULT 0,
    holder text,
    holder_process jsonb,
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    counted_to uuid NOT NULL DEFAULT orchestrator_id_at(clock_timestamp())
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
COMMENT ON TABLE leadership IS 'The lease of the leader: one row';
COMMENT ON COLUMN leadership.id IS 'Always 1';
COMMENT ON COLUMN leadership.term IS 'Grows with every acquisition: the fencing token of all that a leader writes';
COMMENT ON COLUMN leadership.holder IS 'The worker that leads or led last';
COMMENT ON COLUMN leadership.holder_process IS 'Its process: boot_id, pid_namespace, hostname, pid, start_ticks';
COMMENT ON COLUMN leadership.acquired_at IS 'Start of the term';
COMMENT ON COLUMN leadership.renewed_at IS 'Latest renewal';
COMMENT ON COLUMN leadership.expires_at IS 'End of the lease unless it is renewed';
COMMENT ON COLUMN leadership.counted_to IS 'Tasks with ids up to this one are in tasks_enqueued_total';
INSERT INTO leadership DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Unlogged: after a crash it is empty, which costs each sleeper one poll interval.
CREATE UNLOGGED TABLE IF NOT EXISTS sleepers (
    worker_id text PRIMARY KEY,
    is_sleeping boolean NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
COMMENT ON TABLE sleepers IS 'Who wants a notification when tasks arrive; while nobody does, none is sent';
COMMENT ON COLUMN sleepers.worker_id IS 'The worker';
COMMENT ON COLUMN sleepers.is_sleeping IS 'Whether any of its children is idle';

-- Notifications serialise commits, so they are sent only while somebody sleeps. Polling is the truth: one that is lost
-- costs a poll interval.
CREATE OR REPLACE FUNCTION orchestrator_wake_sleepers() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM sleepers WHERE is_sleeping) THEN
        PERFORM pg_notify('orchestrator_tasks', '');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION orchestrator_wake_sleepers() IS 'Notifies orchestrator_tasks if any worker sleeps';

CREATE OR REPLACE TRIGGER wake_on_insert AFTER INSERT ON tasks
    FOR EACH STATEMENT EXECUTE FUNCTION orchestrator_wake_sleepers();

-- AFTER, and a second UPDATE of a row that needs it: a BEFORE trigger has PostgreSQL lock every row that is claimed or
-- finished once more, whether it fires or not, which costs each task a tenth. Our own statements need no second one.
CREATE OR REPLACE FUNCTION orchestrator_make_wholly_pending() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    IF coalesce(NEW.claim_token, NEW.slot) IS NOT NULL OR NEW.worker_id IS NOT NULL OR NEW.result IS NOT NULL
        OR coalesce(NEW.claimed_at, NEW.started_at, NEW.completed_at) IS NOT NULL
        OR NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at THEN
        UPDATE tasks SET worker_id = NULL, slot = NULL, claim_token = NULL, claimed_at = NULL, started_at = NULL,
            completed_at = NULL, result = NULL, updated_at = now()
        WHERE id = NEW.id AND status = 'pending';
    END IF;
    IF NEW.next_retry_at IS NULL AND EXISTS (SELECT FROM sleepers WHERE is_sleeping) THEN
        PERFORM pg_notify('orchestrator_tasks', '');
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION orchestrator_make_wholly_pending() IS
    'Whoever moves a task back to pending, an operator''s UPDATE too: its claim ends, so an execution that still goes '
    'on is stale, and sleeping workers are woken';

CREATE OR REPLACE TRIGGER make_wholly_pending AFTER UPDATE OF status ON tasks FOR EACH ROW
    WHEN (NEW.status = 'pending' AND OLD.status <> 'pending')
    EXECUTE FUNCTION orchestrator_make_wholly_pending();

CREATE OR REPLACE FUNCTION enqueue_task(
    type text,
    payload jsonb DEFAULT '{}',
    priority integer DEFAULT 0,
    delay interval DEFAULT NULL,
    run_at timestamptz DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    max_retries integer DEFAULT NULL,
    timeout interval DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    task_id uuid;
    due timestamptz := coalesce(enqueue_task.run_at, clock_timestamp() + enqueue_task.delay);
BEGIN
    IF enqueue_task.payload IS NULL OR jsonb_typeof(enqueue_task.payload) <> 'object' THEN
        RAISE EXCEPTION 'the payload of a task is a JSON object' USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(enqueue_task.payload::text) > 1048576 THEN
        RAISE EXCEPTION 'the payload of a task has at most 1048576 bytes' USING ERRCODE = 'invalid_parameter_value';
    ELSIF octet_length(enqueue_task.payload::text) > 200  -- a shorter one has no room for so many levels
        AND enqueue_task.payload @? 'strict $.**{100} ? (@.type() == "object" || @.type() == "array")' THEN
        RAISE EXCEPTION 'the payload of a task is nested at most 100 levels deep'
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF enqueue_task.delay IS NOT NULL AND enqueue_task.run_at IS NOT NULL THEN
        RAISE EXCEPTION 'give delay or run_at, not both' USING ERRCODE = 'invalid_parameter_value';
    ELSIF date_part('epoch', due) >= 253402300800 THEN  -- or infinity: it would pend for ever
        RAISE EXCEPTION 'a task is due before the year 10000' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    LOOP
        INSERT INTO tasks (type, payload, priority, next_retry_at, idempotency_key, max_retries, timeout_seconds)
        VALUES (enqueue_task.type, enqueue_task.payload, coalesce(enqueue_task.priority, 0),
                CASE WHEN due > clock_timestamp() THEN due END,
                enqueue_task.idempotency_key, enqueue_task.max_retries, date_part('epoch', enqueue_task.timeout))
        ON CONFLICT (type, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
        RETURNING id INTO task_id;
        EXIT WHEN task_id IS NOT NULL;
        SELECT id INTO task_id FROM tasks
        WHERE type = enqueue_task.type AND idempotency_key = enqueue_task.idempotency_key;
        EXIT WHEN task_id IS NOT NULL;  -- else it was deleted in between: insert again
    END LOOP;
    RETURN task_id;
END
$$;
COMMENT ON FUNCTION enqueue_task(text, jsonb, integer, interval, timestamptz, text, integer, interval) IS
    'Enqueues a task from any language; a duplicate of (type, idempotency_key) returns the id that is there and '
    'changes nothing';

CREATE TABLE IF NOT EXISTS orchestrator_schema (
    id integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    version integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE orchestrator_schema IS 'The version of this schema: one row';
COMMENT ON COLUMN orchestrator_schema.id IS 'Always 1';
COMMENT ON COLUMN orchestrator_schema.version IS 'A daemon that knows only older versions refuses to run';
COMMENT ON COLUMN orchestrator_schema.applied_at IS 'When this version was applied';
INSERT INTO orchestrator_schema AS present (version) VALUES (4)
ON CONFLICT (id) DO UPDATE SET version = excluded.version, applied_at = excluded.applied_at
WHERE present.version < excluded.version;
