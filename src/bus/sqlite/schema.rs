//! What the file of a bus looks like. Pure text; `crate::db` carries it out when the file is opened.
//!
//! Events are appended to `events` and counted in `types` by triggers. A queue's bindings are kept as patterns and,
//! for each type that exists, as rows of `routes`; a trigger makes a job for each route of a new event, so that work
//! lands in queues in the same transaction as the event, whichever process publishes it. A job refers to its event, and
//! takes over the event's bytes when retention deletes it.

use crate::db::Format;

/// The bus's file. The mark spells `gbus`.
pub(super) const FORMAT: Format =
    Format { name: "godctl bus", application_id: 0x6762_7573, migrations: &[VERSION_1] };

/// Values of `jobs.state` that are needed outside of SQL. 1 is a job that is leased, since `since` and for `hold_ms`.
pub(super) mod state {
    /// Waiting for a consumer.
    pub(crate) const READY: i64 = 0;
    /// Dead letter since `since`.
    pub(crate) const DEAD: i64 = 2;
    /// To be delivered `hold_ms` after `since`.
    pub(crate) const DELAYED: i64 = 3;
}

/// Times are milliseconds since 1970 by the clock of the process that wrote them; `events.at` never decreases.
/// `jobs.fence` counts the leases of a job, so that only the latest one can settle it; `jobs.max_attempts` is what its
/// latest consumer allows. `jobs.history` is a JSON array of
/// `{at, consumer, reason}`. Ids are never used twice where a reader may remember one.
const VERSION_1: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE types(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    events INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
);

CREATE TABLE events(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    type_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX events_by_id ON events(event_id, type_id);
CREATE INDEX events_by_type ON events(type_id, seq);

CREATE TABLE cursors(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE queues(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE bindings(queue_id INTEGER NOT NULL, pattern TEXT NOT NULL, PRIMARY KEY(queue_id, pattern)) WITHOUT ROWID;
CREATE TABLE routes(type_id INTEGER NOT NULL, queue_id INTEGER NOT NULL, PRIMARY KEY(type_id, queue_id)) WITHOUT ROWID;

CREATE TABLE jobs(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL,
    event_id BLOB NOT NULL,
    type_id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 0,
    since INTEGER NOT NULL DEFAULT 0,
    hold_ms INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    holder TEXT NOT NULL DEFAULT '',
    reason TEXT,
    history TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX jobs_by_lane ON jobs(queue_id, state, id);
CREATE INDEX jobs_by_event ON jobs(event_id, queue_id, state);
CREATE INDEX jobs_by_seq ON jobs(seq) WHERE body IS NULL;
CREATE INDEX jobs_by_due ON jobs(queue_id, since + hold_ms) WHERE state IN (1, 3);

CREATE TABLE seen(id INTEGER PRIMARY KEY, queue_id INTEGER NOT NULL, event_id BLOB NOT NULL, at INTEGER NOT NULL);
CREATE UNIQUE INDEX seen_by_event ON seen(event_id, queue_id);

CREATE TRIGGER event_arrives AFTER INSERT ON events BEGIN
    UPDATE types SET events = events + 1, bytes = bytes + length(NEW.body) WHERE id = NEW.type_id;
    INSERT INTO jobs(queue_id, seq, event_id, type_id, at, size)
        SELECT r.queue_id, NEW.seq, NEW.event_id, NEW.type_id, NEW.at, length(NEW.body)
        FROM routes r
        WHERE r.type_id = NEW.type_id
            AND NOT EXISTS (SELECT 1 FROM seen s WHERE s.event_id = NEW.event_id AND s.queue_id = r.queue_id);
END;

CREATE TRIGGER event_goes BEFORE DELETE ON events BEGIN
    UPDATE types SET events = events - 1, bytes = bytes - length(OLD.body) WHERE id = OLD.type_id;
    UPDATE jobs SET body = OLD.body WHERE seq = OLD.seq AND body IS NULL;
END;
";
