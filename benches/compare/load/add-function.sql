\set n random(1, :accounts)
SELECT * FROM add_memory(sha256(convert_to('key-' || :n::text, 'UTF8')), :body);
