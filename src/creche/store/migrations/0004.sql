-- What was said of queues while the plane ran: that they are paused, and how much may run of them.

CREATE TABLE queue (
  name TEXT PRIMARY KEY,
  settings BLOB NOT NULL         -- CBOR
) WITHOUT ROWID;
