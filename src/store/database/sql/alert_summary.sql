SELECT
    (SELECT COUNT(*) FROM alerts WHERE next_at IS NOT NULL),
    (SELECT MAX(ended_at) FROM alerts WHERE is_delivered = 1),
    (SELECT error FROM alerts WHERE next_at IS NOT NULL AND error IS NOT NULL ORDER BY created_at DESC, id LIMIT 1)
