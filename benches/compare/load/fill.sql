INSERT INTO accounts
SELECT n, sha256(convert_to('key-' || n, 'UTF8')), now() + interval '1 month', :allotment, :allotment, :each, :room
FROM generate_series(1, :accounts) n;

-- Round about the accounts, as they would come.
INSERT INTO memories (account, body)
SELECT n, :'body' FROM generate_series(1, :each), generate_series(1, :accounts) n;

VACUUM ANALYZE;
CHECKPOINT;
