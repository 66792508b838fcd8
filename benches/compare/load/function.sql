-- The same in PL/pgSQL, called as one statement.
CREATE FUNCTION add_memory(hash bytea, memory text, OUT memory_id bigint, OUT balance bigint) LANGUAGE plpgsql AS $$
DECLARE
  account_id bigint;
BEGIN
  UPDATE accounts SET
    credits = CASE WHEN cycle_end <= now() THEN allotment ELSE credits END - 2,
    cycle_end = CASE WHEN cycle_end <= now() THEN cycle_end + interval '1 month' ELSE cycle_end END,
    memories = memories + 1
  WHERE key_hash = hash
    AND CASE WHEN cycle_end <= now() THEN allotment ELSE credits END >= 2
    AND memories < memories_max
  RETURNING id, credits INTO account_id, balance;
  IF account_id IS NULL THEN
    RAISE EXCEPTION 'refused';
  END IF;
  INSERT INTO memories (account, body) VALUES (account_id, memory) RETURNING id INTO memory_id;
END $$;
