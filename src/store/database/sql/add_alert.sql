INSERT INTO alerts (id, kind, about, subject, body, created_at, attempts, next_at, ended_at, is_delivered, error)
VALUES ($1, $2, $3, $4, $5, $6, 0, $6, NULL, 0, NULL)
ON CONFLICT (subject) DO NOTHING
