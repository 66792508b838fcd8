-- The same account and memory in PostgreSQL. One row an account, key hash included, is the least a table can be:
-- MemoryOS keeps keys, accounts and usage apart. Updates of accounts stay on their page (HOT).
CREATE TABLE accounts (
  id bigint PRIMARY KEY,
  key_hash bytea NOT NULL UNIQUE,
  cycle_end timestamptz NOT NULL,
  allotment bigint NOT NULL,
  credits bigint NOT NULL,
  memories bigint NOT NULL,
  memories_max bigint NOT NULL
) WITH (fillfactor = 40);

CREATE TABLE memories (
  account bigint NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY (CACHE 64),
  created timestamptz NOT NULL DEFAULT now(),
  body text NOT NULL,
  PRIMARY KEY (account, id)
);
