-- Takes alerts for a minute ($4 is its end), so that no other gateway delivers them meanwhile. A gateway that ends in
-- between leaves them to the others.
WITH taken AS (
    UPDATE alerts SET next_at = $4
    WHERE id IN (
        SELECT id FROM alerts
        WHERE next_at IS NOT NULL AND (next_at <= $1 OR next_at > $2)
        ORDER BY next_at, created_at, id
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, kind, body, created_at, attempts
)
SELECT id, kind, body, created_at, attempts FROM taken ORDER BY created_at, id
