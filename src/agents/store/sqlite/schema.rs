//! What the file of a store looks like. Pure text; `crate::db` carries it out when the file is opened.

use crate::db::Format;

/// The file. The mark spells `gses`.
pub(super) const FORMAT: Format = Format {
    name: "godctl store of sessions",
    application_id: 0x6773_6573,
    migrations: &[VERSION_1, VERSION_2],
};

/// Times are milliseconds since 1970. `plain` is JSON of what may be read, `sealed` a blob of the vault;
/// `sessions.change_id` is the last change, so that it is not made twice. A row of `leases` stays when its lease is given
/// back, for the next one's number must be larger. `inbox` and `outbox` are the journal of `agent listen`: prompts that
/// were accepted, and events to be published (`sent` is 0 until they are,
/// `taken` tells when `taker` began to); `buried` are events that went to the dead
/// letters; `gates` say whether an agent may begin another turn (JSON of `limits::Gate`);
/// `listeners` are the processes that take prompts in. `stops` are runs that somebody wants to be stopped; a row goes with
/// the end of its turn, or with its session.
const VERSION_1: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE sessions(
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    change_id TEXT NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0,
    provider TEXT NOT NULL,
    state TEXT NOT NULL,
    directory TEXT NOT NULL,
    updated INTEGER NOT NULL,
    plain TEXT NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX sessions_by_time ON sessions(updated);
CREATE INDEX sessions_by_provider ON sessions(provider, updated);
CREATE INDEX sessions_by_state ON sessions(state, updated);
CREATE INDEX sessions_by_directory ON sessions(directory, updated);

CREATE TABLE tags(tag TEXT NOT NULL, session TEXT NOT NULL, PRIMARY KEY(tag, session)) WITHOUT ROWID;
CREATE INDEX tags_by_session ON tags(session);

CREATE TABLE turns(
    session TEXT NOT NULL,
    number INTEGER NOT NULL,
    plain TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY(session, number)
);

CREATE TABLE usage(
    run TEXT PRIMARY KEY,
    session TEXT NOT NULL,
    at INTEGER NOT NULL,
    row TEXT NOT NULL
);
CREATE INDEX usage_by_time ON usage(at);
CREATE INDEX usage_by_session ON usage(session);

CREATE TABLE leases(
    name TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    fence INTEGER NOT NULL,
    holder TEXT NOT NULL,
    until INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE inbox(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL,
    session TEXT NOT NULL,
    provider TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    run TEXT NOT NULL DEFAULT '',
    holder TEXT NOT NULL DEFAULT '',
    not_before INTEGER NOT NULL DEFAULT 0,
    updated INTEGER NOT NULL,
    sealed BLOB NOT NULL
);
CREATE INDEX inbox_by_status ON inbox(status, seq);
CREATE INDEX inbox_by_provider ON inbox(provider, status);
CREATE INDEX inbox_by_session ON inbox(session, status, seq);

CREATE TABLE outbox(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    is_result INTEGER NOT NULL,
    created INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0,
    taker TEXT NOT NULL DEFAULT '',
    sealed BLOB NOT NULL
);
CREATE INDEX outbox_unsent ON outbox(seq) WHERE sent = 0;
CREATE INDEX outbox_by_key ON outbox(key);

CREATE TABLE gates(provider TEXT PRIMARY KEY, gate TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE buried(event_id TEXT PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE stops(session TEXT NOT NULL, run TEXT NOT NULL, PRIMARY KEY(session, run)) WITHOUT ROWID;

CREATE TABLE listeners(
    holder TEXT PRIMARY KEY,
    queue TEXT NOT NULL,
    workers INTEGER NOT NULL,
    began INTEGER NOT NULL,
    seen INTEGER NOT NULL
) WITHOUT ROWID;
";

/// When a prompt was accepted; 0 of those that were before this was noted.
const VERSION_2: &str = "ALTER TABLE inbox ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;";
