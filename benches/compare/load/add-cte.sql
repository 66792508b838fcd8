\set n random(1, :accounts)
WITH debited AS (
  UPDATE accounts SET
    credits = CASE WHEN cycle_end <= now() THEN allotment ELSE credits END - 2,
    cycle_end = CASE WHEN cycle_end <= now() THEN cycle_end + interval '1 month' ELSE cycle_end END,
    memories = memories + 1
  WHERE key_hash = sha256(convert_to('key-' || :n::text, 'UTF8'))
    AND CASE WHEN cycle_end <= now() THEN allotment ELSE credits END >= 2
    AND memories < memories_max
  RETURNING id, credits
), added AS (
  INSERT INTO memories (account, body) SELECT id, :body FROM debited RETURNING id
)
SELECT added.id, debited.credits FROM added, debited;
