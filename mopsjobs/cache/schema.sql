-- Tables, indexes and views of the cache. The views are the contract with other programs; the tables are not.
--
-- Each statement ends with a semicolon at the end of a line, and each comment has lines of its own. After a change, raise
-- `SCHEMA_VERSION` of database.py. There are no migrations: `rebuild` of schema.py makes a cache of another version anew,
-- and copies each column that has its name in both. So a column that changes its meaning gets another name, and one that
-- may not be NULL gets a default.

-- `JobRow` of job_row.py describes the columns. The record is the last, since it is long: others are read without it.
CREATE TABLE job (
    key TEXT NOT NULL, job_id TEXT PRIMARY KEY, version TEXT NOT NULL, generation INTEGER NOT NULL,
    status TEXT NOT NULL, is_active INTEGER NOT NULL, created_ts REAL NOT NULL, changed_ts REAL NOT NULL,
    sweep TEXT, best REAL, started_ts REAL, ended_ts REAL, progress REAL, heartbeat_ts REAL, has_history INTEGER NOT NULL DEFAULT 0,
    name TEXT, namespace TEXT, owner TEXT, status_since TEXT, suspect TEXT, parent_job_id TEXT, usage TEXT,
    forecast TEXT, study TEXT, error TEXT, note TEXT, tasks_total INTEGER NOT NULL DEFAULT 0,
    tasks_completed INTEGER NOT NULL DEFAULT 0, outputs_expected INTEGER NOT NULL DEFAULT 0,
    outputs_verified INTEGER NOT NULL DEFAULT 0, is_validated INTEGER NOT NULL DEFAULT 0, record TEXT NOT NULL
);
CREATE TABLE problem (key TEXT PRIMARY KEY, kind TEXT, reason TEXT, version TEXT);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT);

-- AUTOINCREMENT: a number is never reused, so a reader that has seen it never misses a later event.
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, chunk TEXT NOT NULL, job_id TEXT NOT NULL, at_ts REAL NOT NULL,
    kind TEXT NOT NULL, body TEXT NOT NULL
);

-- The journal of a calibration, as a document of studies/journal.py.
CREATE TABLE journal (job_id TEXT PRIMARY KEY, document TEXT NOT NULL);

-- Tables whose rows are found by their primary keys alone.
CREATE TABLE job_label (
    label TEXT NOT NULL, value TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (label, value, job_id)
) WITHOUT ROWID;
CREATE TABLE event_chunk (name TEXT PRIMARY KEY, key TEXT NOT NULL, problem TEXT) WITHOUT ROWID;
CREATE TABLE counter (
    name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, labels)
) WITHOUT ROWID;
CREATE TABLE pruned (key TEXT PRIMARY KEY, version TEXT NOT NULL, parent_job_id TEXT) WITHOUT ROWID;
CREATE TABLE notified (name TEXT PRIMARY KEY, at_ts REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE ledger (
    job_id TEXT PRIMARY KEY, looked_at REAL NOT NULL, synced_ts REAL, is_complete INTEGER NOT NULL DEFAULT 0,
    basis TEXT, problem TEXT, tasks_total INTEGER NOT NULL, parameters TEXT NOT NULL, varying TEXT NOT NULL,
    task_ranges TEXT, seeds TEXT NOT NULL DEFAULT '"mops-jobs"', outputs_lost INTEGER NOT NULL DEFAULT 0,
    precision TEXT, rounds INTEGER
) WITHOUT ROWID;
CREATE TABLE ledger_chunk (
    name TEXT PRIMARY KEY, job_id TEXT NOT NULL, key TEXT NOT NULL, problem TEXT, scalars BLOB
) WITHOUT ROWID;

-- A seed has no type, so that one above 2^63 stays a text of digits; as an INTEGER it would be rounded. Of an adaptive
-- study, `needed` are the tasks that the outputs of an ended job ask for; NULL if they were not judged.
CREATE TABLE parameter_set (
    job_id TEXT NOT NULL, first_task INTEGER NOT NULL, tasks INTEGER NOT NULL, param_id TEXT NOT NULL, seed,
    params TEXT NOT NULL, needed INTEGER, PRIMARY KEY (job_id, first_task)
) WITHOUT ROWID;
CREATE TABLE attempt (
    job_id TEXT NOT NULL, task INTEGER NOT NULL, run TEXT NOT NULL, seq INTEGER NOT NULL, attempt INTEGER NOT NULL,
    shard INTEGER, outcome TEXT NOT NULL, started_ts REAL, seconds REAL, user_seconds REAL, system_seconds REAL,
    max_rss_bytes INTEGER, host TEXT, python TEXT, error_key TEXT, error_type TEXT, error_where TEXT,
    error_message TEXT, output_bytes INTEGER, resumed_at TEXT, resumed_seconds REAL,
    PRIMARY KEY (job_id, task, run, seq, shard)
) WITHOUT ROWID;
CREATE TABLE task (
    job_id TEXT NOT NULL, task INTEGER NOT NULL, first_task INTEGER NOT NULL, seed, attempts INTEGER NOT NULL,
    shard INTEGER, outcome TEXT NOT NULL, started_ts REAL, seconds REAL, user_seconds REAL, system_seconds REAL,
    max_rss_bytes INTEGER, host TEXT, python TEXT, error_key TEXT, error_type TEXT, error_where TEXT,
    error_message TEXT, output_bytes INTEGER, resumed_at TEXT, resumed_seconds REAL, resumes INTEGER, reused_from TEXT,
    PRIMARY KEY (job_id, task)
) WITHOUT ROWID;
CREATE TABLE failure_summary (job_id TEXT PRIMARY KEY, state TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;

-- The sums of totals.py.
CREATE TABLE tally (
    status TEXT NOT NULL, namespace TEXT NOT NULL, owner TEXT NOT NULL, jobs INTEGER NOT NULL,
    verified INTEGER NOT NULL, missing INTEGER NOT NULL, unchecked INTEGER NOT NULL,
    PRIMARY KEY (status, namespace, owner)
) WITHOUT ROWID;

-- The order of indexes matters: between two that are as good for a query, SQLite takes one by it.
CREATE UNIQUE INDEX idx_job_key ON job (key);
-- With the sweep: a list passes over thousands of its jobs without their rows.
CREATE INDEX idx_job_changed_ts ON job (changed_ts, sweep);
CREATE INDEX idx_job_status_changed_ts ON job (status, changed_ts);
-- Partial: the few jobs that every listing shows, however old they are.
CREATE INDEX idx_job_active ON job (changed_ts) WHERE is_active = 1;
CREATE INDEX idx_job_name ON job (name);
-- With all that the row of a sweep shows. Few jobs are in one, so others cost nothing.
CREATE INDEX idx_job_sweep ON job (
    sweep, status, is_active, changed_ts, created_ts, ended_ts, owner, study, suspect, heartbeat_ts, tasks_total,
    tasks_completed, best, job_id
) WHERE sweep IS NOT NULL;
CREATE INDEX idx_job_generation ON job (generation);
CREATE INDEX idx_job_parent ON job (parent_job_id) WHERE parent_job_id IS NOT NULL;
CREATE INDEX idx_pruned_parent ON pruned (parent_job_id) WHERE parent_job_id IS NOT NULL;
CREATE INDEX idx_job_study ON job (study, changed_ts, status, is_active);
CREATE INDEX idx_job_error ON job (error) WHERE error IS NOT NULL;
CREATE INDEX idx_job_owner_changed_ts ON job (owner, changed_ts, status, is_active);
-- With all that panels, groups and sums of active jobs read. Without it they would read the records too.
CREATE INDEX idx_job_active_tallies ON job (
    status, changed_ts, suspect, heartbeat_ts, tasks_total, tasks_completed, created_ts, owner, study, forecast
) WHERE is_active = 1;
CREATE INDEX idx_job_ended ON job (status, ended_ts) WHERE is_active = 0;
CREATE INDEX idx_job_note ON job (note) WHERE note IS NOT NULL;
CREATE INDEX idx_job_created_ts ON job (created_ts);
-- With all that charts read.
CREATE INDEX idx_job_times ON job (
    ended_ts, created_ts, started_ts, has_history, status, owner, is_active, usage, job_id
);
CREATE INDEX idx_job_cancelled_failures ON job (changed_ts)
    WHERE status = 'cancelled' AND json_extract(record, '$.tasks_failed') > 0;
CREATE INDEX idx_job_budget ON job (changed_ts) WHERE instr(record, '_max_cpu_hours');
CREATE INDEX idx_job_label_job_id ON job_label (job_id);
CREATE INDEX idx_event_job_id_seq ON event (job_id, seq);
CREATE INDEX idx_ledger_chunk_job_id ON ledger_chunk (job_id);
CREATE INDEX idx_task_seed ON task (job_id, seed);
-- With the time, which is an order of tasks.
CREATE INDEX idx_task_outcome ON task (job_id, outcome, seconds);

-- The views are the contract with other programs. Columns are only ever added.
CREATE VIEW jobs AS SELECT
    job_id, status, is_active, progress, owner, name AS k8s_name, namespace AS k8s_namespace,
    json_extract(record, '$.k8s_uid') AS k8s_uid, json_extract(record, '$.updated_at') AS updated_at,
    json_extract(record, '$.created_at') AS created_at, json_extract(record, '$.tasks_total') AS tasks_total,
    json_extract(record, '$.tasks_completed') AS tasks_completed,
    json_extract(record, '$.tasks_failed') AS tasks_failed, json_extract(record, '$.error_message') AS error_message,
    json_extract(record, '$.error_code') AS error_code, json_extract(record, '$.results_path') AS results_path,
    json_extract(record, '$.engine') AS engine, json_extract(record, '$.parent_job_id') AS parent_job_id,
    json_extract(record, '$.heartbeat_at') AS heartbeat_at, json_extract(record, '$.metadata') AS metadata,
    json_extract(record, '$.labels') AS labels, json_extract(record, '$.transitions') AS transitions, created_ts,
    started_ts, ended_ts, changed_ts, json_extract(usage, '$.cpu_seconds') AS cpu_seconds,
    json_extract(usage, '$.task_seconds') AS task_seconds,
    json_extract(usage, '$.held_core_seconds') AS held_core_seconds,
    json_extract(usage, '$.max_rss_bytes') AS max_rss_bytes
    FROM job;
CREATE VIEW job_labels AS SELECT job_id, label, value FROM job_label;
CREATE VIEW job_sums AS SELECT status, namespace, owner, jobs, verified, missing, unchecked FROM tally WHERE jobs > 0;
CREATE VIEW pruned_jobs AS SELECT key, version FROM pruned;
CREATE VIEW counters AS SELECT name, labels, value FROM counter;
CREATE VIEW sync_problems AS SELECT key, kind, reason FROM problem;
CREATE VIEW sync_state AS SELECT name, value FROM meta;
CREATE VIEW events AS SELECT seq, job_id, json_extract(body, '$.at') AS at, at_ts, kind, body FROM event;
CREATE VIEW event_problems AS SELECT key, problem AS reason FROM event_chunk WHERE problem IS NOT NULL;
CREATE VIEW tasks AS SELECT
    task.job_id, task.task, param_id, task.seed, params, shard, outcome, attempts AS attempt,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_ts, 'unixepoch') AS started_at, seconds,
    user_seconds + system_seconds AS cpu_seconds, max_rss_bytes, host, output_bytes, error_key, error_type,
    error_where, error_message, iif(attempts, 'ledger', 'outputs') AS basis
    FROM task JOIN parameter_set USING (job_id, first_task);
CREATE VIEW attempts AS SELECT
    job_id, task, attempt, run, seq, shard, outcome,
    strftime('%Y-%m-%dT%H:%M:%fZ', started_ts, 'unixepoch') AS started_at, seconds,
    user_seconds + system_seconds AS cpu_seconds, max_rss_bytes, host, output_bytes, error_key, error_type,
    error_where, error_message, user_seconds, system_seconds, python
    FROM attempt;
CREATE VIEW ledgers AS SELECT
    job_id, strftime('%Y-%m-%dT%H:%M:%fZ', synced_ts, 'unixepoch') AS synced_at, is_complete, basis, tasks_total,
    problem
    FROM ledger;
CREATE VIEW ledger_problems AS SELECT job_id, key, problem AS reason FROM ledger_chunk WHERE problem IS NOT NULL;

-- Gives a cache an id of its own, by which a cursor of events is matched to it.
INSERT OR IGNORE INTO meta (name, value) VALUES ('cache_id', lower(hex(randomblob(6))));
