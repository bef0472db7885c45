INSERT INTO key_uses (key_id, last_used_at, requests)
/*rows*/
ON CONFLICT (key_id) DO UPDATE SET
    last_used_at = CASE
        WHEN excluded.last_used_at > key_uses.last_used_at THEN excluded.last_used_at
        ELSE key_uses.last_used_at
    END,
    requests = key_uses.requests + excluded.requests
