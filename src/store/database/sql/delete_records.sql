-- Only the oldest rows are looked at, so that a step costs the same whether there is much to delete or nothing.
DELETE FROM usage_records
WHERE id IN (SELECT id FROM usage_records ORDER BY id LIMIT $2) AND ended_at < $1
